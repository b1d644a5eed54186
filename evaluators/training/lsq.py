"""Quantisation-aware training with learned step sizes.

(Esser et al., "Learned step size quantization", arXiv 1902.08153.) Rounding passes the gradient
straight through; the step of a grid is trained by the gradient that this leaves,

    d q(x) / d step = round(x / step) - x / step   inside the grid, its end outside.

Steps are kept as logarithms: they stay positive, and AdamW's steps are relative ones. Adam
makes the paper's scaling of this gradient needless. Grids are those of `spaces.quantization`:
symmetric, one step an output channel for weights, one for all inputs that share a scale for
activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluators.training.method import Bits, Grids, Method
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import (
    ActivationScales,
    input_scale,
    is_quantized,
    largest_integer,
    weight_range,
)
from spaces.quantization.simulate import find_convolution, grid_signs

GRID = "input_grid"
"""Under this name a convolution keeps what rounds its input."""


class LearnedGrid(nn.Module):
    """Rounds to a grid whose step is trained.

    Args:
        steps: [C] for a grid a channel of the first axis, [] for one grid; negative ones mirror it.
        low: Smallest integer.
        high: Largest integer.
    """

    signs: Tensor

    def __init__(self, steps: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.log_steps = nn.Parameter(steps.detach().abs().log())
        self.register_buffer("signs", steps.detach().sign().to(torch.int8))
        self.low, self.high = low, high

    @property
    def steps(self) -> Tensor:
        """Steps in the shape they were given."""
        return self.log_steps.exp() * self.signs

    def forward(self, x: Tensor) -> Tensor:
        """Round a tensor of any shape."""
        steps = self.steps if self.log_steps.ndim == 0 else self.steps.view(-1, 1, 1, 1)
        inside = (x / steps).clamp(self.low, self.high)
        return (inside + (inside.round() - inside).detach()) * steps


class Lsq(Method):
    """Trains with weights and activations on grids of fixed bit widths and learned steps.

    Args:
        bits: (weight_bits, act_bits) by convolution.
        scales: Activation scales to start from; needed where an activation has a grid.
    """

    def __init__(self, bits: Bits, scales: ActivationScales | None = None) -> None:
        self.bits = bits
        self._scales = scales

    def weight_grid(self, weight: Tensor, signs: Tensor, bits: int) -> nn.Module:
        """Return what rounds a weight [O, I, kh, kw]; see `grid_signs` for the signs [O]."""
        return LearnedGrid(signed_steps(weight, signs, bits), *weight_range(bits))

    def install(self, net: nn.Module) -> None:
        """Put a grid on every weight and input that has one."""

        def act_grid(layer: str, bits: int) -> nn.Module:
            top = largest_integer(bits)
            step = torch.tensor(input_scale(self._scales, layer, bits))
            return LearnedGrid(step, -top - 1, top)

        install_grids(net, self.bits, self._scales, self.weight_grid, act_grid)

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Leave weights on their grids; return the learned scales."""
        steps = {
            name: float(grid.steps.detach())
            for name, grid in remove_grids(net, self.bits).items()
            if isinstance(grid, LearnedGrid)
        }
        return Grids({**grids.bits, **self.bits}, with_steps(self._scales, self.bits, steps))


def install_grids(
    net: nn.Module,
    bits: Bits,
    scales: ActivationScales | None,
    weight_grid: Callable[[Tensor, Tensor, int], nn.Module],
    act_grid: Callable[[str, int], nn.Module],
    *,
    by_width: bool = True,
) -> None:
    """Put roundings on the weights and inputs of convolutions, in place.

    Args:
        net: The network.
        bits: Which convolutions, and how wide.
        scales: Tells which inputs share a scale: they share one module.
        weight_grid: Makes what rounds a weight [O, I, kh, kw], given its `grid_signs` [O].
        act_grid: Makes what rounds the input of a layer.
        by_width: Whether inputs that share a scale have a module for each width among them.
    """
    shared: dict[tuple[int, int], nn.Module] = {}
    for name, (weight_bits, act_bits) in bits.items():
        conv = find_convolution(net, name)
        if is_quantized(weight_bits):
            grid = weight_grid(conv.weight, grid_signs(net, name), weight_bits)
            parametrize.register_parametrization(conv, "weight", grid)
        if is_quantized(act_bits):
            input_scale(scales, name, act_bits)  # says which layer has none
            assert scales is not None
            key = scales.groups[name], act_bits if by_width else 0
            if key not in shared:
                shared[key] = act_grid(name, act_bits)
            conv.add_module(GRID, shared[key])
            conv.register_forward_pre_hook(_round_input)


def signed_steps(weight: Tensor, signs: Tensor, bits: int) -> Tensor:
    """Return the steps [O] of a weight's grid, negative where the grid is mirrored."""
    return weight_scales(weight * signs.view(-1, 1, 1, 1), bits) * signs


def _round_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (module.get_submodule(GRID)(args[0]),)


def original_weight(conv: nn.Conv2d) -> Tensor:
    """Return the weight that is trained, before anything rounds or masks it."""
    if parametrize.is_parametrized(conv, "weight"):
        return conv.get_parameter("parametrizations.weight.original")
    return conv.weight


def remove_grids(net: nn.Module, bits: Bits) -> dict[str, nn.Module]:
    """Round the weights for good and take the roundings of inputs away, in place.

    Returns:
        What rounded the input, by convolution.
    """
    removed = {}
    for name in bits:
        conv = find_convolution(net, name)
        if parametrize.is_parametrized(conv, "weight"):
            bake(conv)
        if hasattr(conv, GRID):
            removed[name] = conv.get_submodule(GRID)
            delattr(conv, GRID)
            hooks = conv._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _round_input]:
                del hooks[key]
    return removed


def bake(conv: nn.Conv2d) -> None:
    """Make the weight that a convolution computes with (rounded, masked) a plain one, in place.

    torch's own `remove_parametrizations` takes the weight away from all copies of the network, for
    they share the class that computes it.
    """
    weight = conv.weight.detach().clone()
    conv.__class__ = type(conv).__bases__[0]
    del conv._modules["parametrizations"]
    conv.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def with_steps(
    scales: ActivationScales | None, bits: Bits, steps: Mapping[str, float]
) -> ActivationScales | None:
    """Return activation scales with other steps for some layers, at the width these layers have."""
    if scales is None:
        return None
    clips = {group: dict(row) for group, row in scales.clips.items()}
    for layer, step in steps.items():
        width = bits[layer][1]
        clips[scales.groups[layer]][width] = step * largest_integer(width)
    return ActivationScales(scales.groups, clips)
