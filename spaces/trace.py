"""One forward pass, noted down: convolutions, other ops that cost time, and where channels flow.

Every output channel of every convolution is a *source*, numbered in execution order. What a
tensor consists of is then one array: the source of each of its channels (`IMAGE` for the
picture's own). Batch norm, activations, pooling and resizing keep it, and a concatenation joins
it. An addition keeps that of its first operand: both have the same channels for ever, see
`spaces.groups`, and as runtimes add while they write the one, the other is all that is read.
With it the channels read and written by each step are known for every choice of kept channels,
without running anything again.

Tensors whose channels are no longer in axis 1 of four (the reshaped maps inside a Detect head)
have no sources; what happens to them is the decoding of boxes, noted as one `decode` op for each
output map. That includes the fixed 16-to-1 convolution of the distribution focal loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from hw_models.errors import InputError
from hw_models.workload import ACTIVATIONS, ConvShape, OpKind, OtherOp, with_siblings

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

IMAGE = -1
"""The source of the input picture's channels."""

TRACE_IMGSZ = 256
"""Rows and columns of the traced picture: a multiple of every YOLOv5's largest stride."""

_aten = torch.ops.aten
_OPS: dict[Any, OpKind] = {
    _aten.max_pool2d_with_indices.default: "pool",
    _aten.avg_pool2d.default: "pool",
    _aten.upsample_nearest2d.default: "resize",
    _aten.upsample_nearest2d.vec: "resize",
    _aten.upsample_bilinear2d.default: "resize",
    _aten.upsample_bilinear2d.vec: "resize",
    _aten.cat.default: "concat",
    _aten.add.Tensor: "add",
    _aten.add_.Tensor: "add",
    _aten.silu.default: "activation",
    _aten.silu_.default: "activation",
    _aten.hardswish.default: "activation",
    _aten.hardswish_.default: "activation",
    _aten.mish.default: "mish",
    _aten.mish_.default: "mish",
    _aten.leaky_relu.default: "leaky",
    _aten.leaky_relu_.default: "leaky",
    _aten.sigmoid.default: "activation",
}

_JOINS = (_aten.cat.default, _aten.add.Tensor, _aten.add_.Tensor)
"""Ops that read all of their tensors alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one forward pass did.

    Args:
        steps: Convolutions and other ops in execution order, for a picture of `TRACE_IMGSZ`.
        reads: For each step, the source of every channel it reads, over all its inputs.
        writes: For each step, the source of every channel it writes.
        norms: For each batch norm, by module name, the source of every channel.
        readers: For each step, the steps that are convolutions and read what it wrote, directly
            or through other ops.
        writers: For each step that is no convolution, the convolutions that wrote what it reads,
            directly or through other ops; none for a convolution.
        stride: Pixels of the picture for one cell of the smallest map.
    """

    steps: tuple[ConvShape | OtherOp, ...]
    reads: tuple[IntArray, ...]
    writes: tuple[IntArray, ...]
    norms: dict[str, IntArray]
    readers: tuple[tuple[int, ...], ...]
    writers: tuple[tuple[int, ...], ...]
    stride: int


def trace(net: nn.Module) -> Trace:
    """Run a network once on a grey picture and note what it does.

    Args:
        net: Maps pictures [B, 3, H, W] to one tensor [B, 4 + classes, anchors]; it is put into
            evaluation mode.

    Raises:
        InputError: The network has a convolution that is neither dense nor depthwise, or one
            that runs twice.
    """
    recorder = _Recorder()
    picture = torch.full((1, 3, TRACE_IMGSZ, TRACE_IMGSZ), 0.5)
    recorder.begin(picture)
    with torch.no_grad(), recorder.attached(net.eval()):
        output = net(picture)
    recorder.note_decoding(output)
    return recorder.result()


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """What is known about one tensor: its channels' sources, and the steps it is a result of.

    Steps go back to the convolution that wrote it, that one included.
    """

    sources: IntArray
    steps: frozenset[int]


class _Recorder(TorchDispatchMode):
    """Notes convolutions and batch norms through module hooks, other ops as they are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self._flows = WeakTensorKeyDictionary()
        self._scopes: list[str] = []
        self._op_names: Counter[str] = Counter()
        self._sources = 0
        self._steps: list[ConvShape | OtherOp] = []
        self._reads: list[IntArray] = []
        self._writes: list[IntArray] = []
        self._readers: list[set[int]] = []
        self._writers: list[tuple[int, ...]] = []
        self._tensors: list[_Flow | None] = []
        self._norms: dict[str, IntArray] = {}

    def begin(self, picture: Tensor) -> None:
        """Mark the channels of the picture."""
        channels = np.full(picture.shape[1], IMAGE, dtype=np.int64)
        self._flows[picture] = _Flow(channels, frozenset())

    @contextmanager
    def attached(self, net: nn.Module) -> Iterator[None]:
        """Listen to all modules and all ops of a network."""
        with ExitStack() as stack:
            for name, module in net.named_modules():
                for handle in (
                    module.register_forward_pre_hook(lambda *_, n=name: self._scopes.append(n)),
                    module.register_forward_hook(self._leave),
                ):
                    stack.callback(handle.remove)
            with self:
                yield

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = self._scopes.pop()
        flow = self._flows.get(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else None
        if flow is None:
            return
        if isinstance(module, nn.Conv2d):
            self._note_conv(name, module, flow, output)
        elif isinstance(module, nn.BatchNorm2d):
            self._norms[name] = flow.sources

    def _note_conv(self, name: str, conv: nn.Conv2d, flow: _Flow, output: Tensor) -> None:
        if any(step.name == name for step in self._steps):
            raise InputError(
                f"Convolution {name} runs twice in one forward pass; expected once.",
                "Networks that share layers cannot be compressed.",
            )
        if conv.groups not in (1, conv.in_channels):
            raise InputError(
                f"Convolution {name} has {conv.groups} groups for {conv.in_channels} channels; "
                "expected 1 group (dense) or one for each channel (depthwise)."
            )
        shape = ConvShape(
            name=name,
            in_channels=conv.in_channels,
            out_channels=conv.out_channels,
            kernel=_pair(conv.kernel_size),
            stride=_pair(conv.stride),
            groups=conv.groups,
            out_h=output.shape[2],
            out_w=output.shape[3],
        )
        sources = np.arange(self._sources, self._sources + conv.out_channels, dtype=np.int64)
        self._sources += conv.out_channels
        self._read_by(flow, len(self._steps))
        self._flows[output] = _Flow(sources, frozenset({len(self._steps)}))
        self._note(shape, flow.sources, sources, flow)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        values = args[0] if func is _aten.cat.default else args[:2]
        inputs = [value for value in values if isinstance(value, Tensor)]
        if inputs and isinstance(result, Tensor) and result.ndim == 4:
            self._follow(func, inputs, result)
        return output

    def _follow(self, func: Any, inputs: list[Tensor], result: Tensor) -> None:
        """Note what an op did to the tensors that it read first."""
        flows = [self._flows.get(tensor) for tensor in inputs]
        known = [flow for flow in flows if flow is not None]
        joins = func in _JOINS and len(inputs) > 1
        if not known or (joins and None in flows):
            return
        kind = _OPS.get(func) if joins or func not in _JOINS else None
        sources = known[0].sources
        if kind == "concat":
            sources = np.concatenate([flow.sources for flow in known])
        if len(sources) != result.shape[1]:
            return
        steps = frozenset[int]().union(*(flow.steps for flow in known))
        if kind is not None:
            op = self._op(kind, len(sources), inputs[0].shape[-2:], result)
            self._note(op, sources, sources, writers=self._convs(steps))
            steps |= {len(self._steps) - 1}
        self._flows[result] = _Flow(sources, steps)

    def _op(self, kind: OpKind, channels: int, size: torch.Size, result: Tensor) -> OtherOp:
        # One activation module serves all blocks: its own name is that of the first.
        scope = self._scopes[-2:][0] if kind in ACTIVATIONS else self._scopes[-1]
        name = f"{scope}.{kind}".removeprefix(".")
        self._op_names[name] += 1
        if self._op_names[name] > 1:
            name = f"{name}{self._op_names[name]}"
        return OtherOp(
            name=name,
            kind=kind,
            in_channels=channels,
            out_channels=result.shape[1],
            in_h=size[0],
            in_w=size[1],
            out_h=result.shape[2],
            out_w=result.shape[3],
        )

    def _note(
        self,
        step: ConvShape | OtherOp,
        reads: IntArray,
        writes: IntArray,
        tensor: _Flow | None = None,
        writers: Iterable[int] = (),
    ) -> None:
        """Note a step; of a convolution also the tensor that it reads, of others its writers."""
        self._steps.append(step)
        self._reads.append(reads)
        self._writes.append(writes)
        self._readers.append(set())
        self._writers.append(tuple(writers))
        self._tensors.append(tensor)

    def _read_by(self, flow: _Flow, reader: int) -> None:
        for step in flow.steps:
            self._readers[step].add(reader)

    def _convs(self, steps: Iterable[int]) -> list[int]:
        return [step for step in sorted(steps) if isinstance(self._steps[step], ConvShape)]

    def note_decoding(self, output: Tensor) -> None:
        """Note one decode op for each output map, given the boxes [1, 4 + classes, anchors]."""
        maps: dict[tuple[int, int], list[int]] = {}
        for index in self._unread_convs():
            step = self._steps[index]
            maps.setdefault((step.out_h, step.out_w), []).append(index)
        cells = sum(h * w for h, w in maps)
        values_per_cell = output.shape[1] * output.shape[2] // cells
        for number, ((h, w), writers) in enumerate(maps.items()):
            reads = np.concatenate([self._writes[index] for index in writers])
            name = f"decode.{number}"
            op = OtherOp(name, "decode", len(reads), values_per_cell, h, w, h, w)
            made = np.full(values_per_cell, IMAGE, dtype=np.int64)
            self._note(op, reads, made, writers=writers)

    def _unread_convs(self) -> list[int]:
        return [
            index
            for index, step in enumerate(self._steps)
            if isinstance(step, ConvShape) and not self._readers[index]
        ]

    def result(self) -> Trace:
        """Return everything noted."""
        smallest = min(step.out_h for step in self._steps)
        return Trace(
            steps=with_siblings(self._steps, self._tensors),
            reads=tuple(self._reads),
            writes=tuple(self._writes),
            norms=self._norms,
            readers=tuple(tuple(sorted(readers)) for readers in self._readers),
            writers=tuple(self._writers),
            stride=TRACE_IMGSZ // smallest,
        )


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = values
    return rows, columns
