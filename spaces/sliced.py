"""Copies of networks, and how they take the shape of a sliced one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import Bottleneck


def copied(net: nn.Module) -> nn.Module:
    """Return a copy that shares no parameter, buffer, module or hook.

    Several times as fast as `copy.deepcopy`, in which a cheap evaluation spent a tenth of its time.
    Other attributes are shared: they must be replaced, not changed.
    """
    copies: dict[nn.Module, nn.Module] = {}  # a module may be in several places

    def copy_of(module: nn.Module) -> nn.Module:
        if module not in copies:
            copies[module] = new = module.__class__.__new__(module.__class__)
            for name, value in module.__dict__.items():
                own = value.copy() if isinstance(value, (dict, list, set)) else value
                new.__dict__[name] = own
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    tensor = parameter.detach().clone()
                    new._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
            for name, buffer in module._buffers.items():
                new._buffers[name] = None if buffer is None else buffer.clone()
            for name, child in module._modules.items():
                new._modules[name] = None if child is None else copy_of(child)
        return copies[module]

    return copy_of(net)


def drop_block(net: nn.Module, block: str) -> None:
    """Let a residual block hand on its input, in place."""
    parent, _, name = block.rpartition(".")
    setattr(net.get_submodule(parent), name, nn.Identity())


def take_shapes(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give convolutions and norms the channel numbers that their tensors have, in place.

    Residual blocks without tensors are dropped.

    Args:
        net: Of the dense architecture; its weights are lost.
        state: Tensors by their names in `net.state_dict()`.

    Raises:
        KeyError: A tensor of a module that has a weight in `state` is missing there.
    """
    for name, module in [*net.named_modules()]:
        residual = isinstance(module, Bottleneck) and module.add
        if residual and not any(key.startswith(f"{name}.") for key in state):
            drop_block(net, name)
    for name, module in net.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None:
            continue
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[0] if depthwise else weight.shape[1]
            module.groups = module.in_channels if depthwise else 1
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        for part in [part for part, _ in module.named_parameters(recurse=False)]:
            setattr(module, part, nn.Parameter(torch.empty_like(state[f"{name}.{part}"])))
        for part, tensor in [*module.named_buffers(recurse=False)]:
            if tensor.ndim:
                setattr(module, part, torch.empty_like(state[f"{name}.{part}"]))
