"""Which convolution inputs must share one scale.

Where two tensors are joined by a concatenation or an addition, or one is the pooled or resized
copy of the other, an integer runtime can pass the integers on only if both have the same scale;
otherwise it inserts a rescaling (in TensorRT: reformat layers). The tensors of one forward pass
are joined with union-find.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PROBE_PX = 64  # any multiple of 64 shows the same joins

_aten = torch.ops.aten
_JOINING = {
    _aten.cat,
    _aten.add,
    _aten.add_,
    _aten.max_pool2d_with_indices,
    _aten.upsample_nearest2d,
    _aten.view,
    _aten._unsafe_view,
    _aten.slice,
    _aten.split,
    _aten.split_with_sizes,
    _aten.transpose,
    _aten.permute,
    _aten.clone,
    _aten.detach,
    _aten.alias,
}


@dataclass(frozen=True, slots=True)
class InputTensor:
    """The tensor that a convolution reads.

    Attributes:
        tensor: Equal for convolutions that read the very same tensor.
        group: Equal for tensors that share a scale.
    """

    tensor: int
    group: int


@dataclass(slots=True)
class _UnionFind:
    parents: dict[int, int] = field(default_factory=dict)

    def find(self, item: int) -> int:
        root = item
        while self.parents.get(root, root) != root:
            root = self.parents[root]
        self.parents[item] = root
        return root

    def join(self, first: int, second: int) -> None:
        self.parents[self.find(second)] = self.find(first)


class _Joiner(TorchDispatchMode):
    """Joins the tensors of a forward pass while it runs, and keeps them alive: ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.joins = _UnionFind()
        self.alive: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.alive.append((args, result))
        if func.overloadpacket in _JOINING:
            inputs = args[0] if isinstance(args[0], (list, tuple)) else args
            outputs = result if isinstance(result, (list, tuple)) else [result]
            if func.overloadpacket is _aten.max_pool2d_with_indices:
                outputs = outputs[:1]
            tensors = [x for x in [*outputs, *inputs] if isinstance(x, Tensor)]
            for tensor in tensors[1:]:
                self.joins.join(id(tensors[0]), id(tensor))
        return result


@torch.no_grad()
def shared_inputs(net: nn.Module) -> dict[str, InputTensor]:
    """Find what every convolution reads and which of these tensors share a scale.

    Args:
        net: Any network on images [B, 3, H, W].

    Returns:
        For each convolution, by module name and in execution order, its input; tensors and groups
        are numbered in that order.
    """
    joiner = _Joiner()
    read: dict[str, int] = {}

    def note(name: str, x: Tensor) -> None:
        joiner.alive.append(x)
        read[name] = id(x)

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with joiner:
            net(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
    finally:
        for handle in handles:
            handle.remove()
    tensors = {tensor: number for number, tensor in enumerate(dict.fromkeys(read.values()))}
    roots = dict.fromkeys(joiner.joins.find(tensor) for tensor in read.values())
    groups = {root: number for number, root in enumerate(roots)}
    return {
        name: InputTensor(tensors[tensor], groups[joiner.joins.find(tensor)])
        for name, tensor in read.items()
    }
