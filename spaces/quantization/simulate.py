"""A network that computes as if its layers had few bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hw_models.errors import InputError
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import (
    ActivationScales,
    input_scale,
    integer_weights,
    is_quantized,
    round_activations,
)


class ActivationRounding(ABC):
    """A forward pre-hook that rounds the input of a convolution. Each kind of grid is a subclass.

    Frozen dataclasses: copied and pickled with the network.
    """

    __slots__ = ()

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """Round a tensor [N, I, H, W]; the result is a new one."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Return the rounded input."""
        return (self.rounded(args[0]),)


@dataclass(frozen=True, slots=True)
class InputRounding(ActivationRounding):
    """Rounds to a symmetric grid with a step known before: what `spaces.export` writes."""

    scale: float
    bits: int

    def rounded(self, x: Tensor) -> Tensor:
        """Round to the nearest multiple of the step that the grid has."""
        return round_activations(x, self.scale, self.bits)


@torch.no_grad()
def quantize(
    net: nn.Module,
    bits: Mapping[str, tuple[int, int]],
    scales: ActivationScales | None = None,
) -> None:
    """Simulate few bits, in place.

    Weights are replaced by their rounded values; a hook rounds the input of each convolution. A
    layer that is not named, and each half of a layer at 16 bits or more, stays bit-identical.
    Weights that were rounded before stay as they are: their grid is found again.

    Args:
        net: Dense or sliced, batch norms not folded.
        bits: (weight_bits, act_bits) by convolution, each 2 to 8, or 16 and more for untouched.
        scales: Of the dense network that `net` was made from; needed where an activation has a
            grid.

    Raises:
        InputError: If a name is no convolution, a scale is missing, or a width has no grid.
    """
    for name, (weight_bits, act_bits) in bits.items():
        conv = find_convolution(net, name)
        if is_quantized(weight_bits):
            signs = grid_signs(net, name)
            weight = conv.weight * signs.view(-1, 1, 1, 1)
            steps = weight_scales(weight, weight_bits)
            rounded = integer_weights(weight, steps, weight_bits)
            conv.weight.copy_(rounded * (steps * signs).view(-1, 1, 1, 1))
        if is_quantized(act_bits):
            round_input(conv, InputRounding(input_scale(scales, name, act_bits), act_bits))


def grid_signs(net: nn.Module, name: str) -> Tensor:
    """Return -1 for the output channels of a convolution whose norm has a negative scale, else 1.

    Times this a weight is on its grid; so it is with the norm folded in.

    Returns:
        [O].
    """
    weight, norm = find_convolution(net, name).weight.detach(), norm_behind(net, name)
    if norm is None or norm.weight is None:
        return weight.new_ones(len(weight))
    return torch.where(norm.weight.detach() < 0, -1.0, 1.0)


def round_input(conv: nn.Conv2d, rounding: ActivationRounding) -> None:
    """Let a convolution read its input rounded, and no longer rounded as before."""
    _remove_rounding(conv)
    conv.register_forward_pre_hook(rounding)


def remove_input_rounding(net: nn.Module) -> None:
    """Remove the hooks that `quantize` and `round_input` put on convolutions, in place."""
    for module in net.modules():
        _remove_rounding(module)


def _remove_rounding(module: nn.Module) -> None:
    hooks = module._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, ActivationRounding)]:
        del hooks[key]


def norm_behind(net: nn.Module, name: str) -> nn.BatchNorm2d | None:
    """Return the batch norm that reads a convolution's output, None where there is none."""
    norm = getattr(net.get_submodule(name.rpartition(".")[0]), "bn", None)
    return norm if isinstance(norm, nn.BatchNorm2d) else None


def find_convolution(net: nn.Module, name: str) -> nn.Conv2d:
    """Return the convolution with this module name.

    Raises:
        InputError: If there is none.
    """
    try:
        module: nn.Module | None = net.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Conv2d):
        raise InputError(
            f"The network has no convolution {name!r}, got {type(module).__name__}.",
            "Take the names from the traced network.",
        )
    return module
