"""Noise-injected pseudo-quantisation: bit widths and clips are trained, under a budget.

(Park et al., "NIPQ: noise proxy-based integrated pseudo-quantization", arXiv 2206.00820.) In the
first part of the training nothing is rounded: x is clipped and noise of the size of the rounding
error is added, x + step * noise, so that clip and bit width have exact gradients. The noise is
drawn from the rounding errors that x has at this moment (shifted along x by chance, so that it is
independent of the place). In the last part the bit widths are whole numbers, fixed, and the
training goes on with true rounding, straight through (as `lsq`).

b = 2 + 6 sigmoid(PACE theta) bits, step = clip / (2^(b-1) - 1). Adam moves a parameter by about the
learning rate a step, whatever its gradient is: with PACE = 1 no width would move by a tenth of a
bit in a few hundred steps. The loss gets a penalty on how far the mean bits of weights (a weight
each) and of activations (a layer each) are above what was asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evaluators.training.lsq import GRID, install_grids, remove_grids, with_steps
from evaluators.training.method import Bits, Grids, Method
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import (
    QUANTIZED_BITS,
    ActivationScales,
    input_scale,
    is_quantized,
    largest_integer,
)
from spaces.quantization.simulate import find_convolution

NOISE_UNTIL = 0.6  # progress; afterwards bits are whole and rounding is true
PENALTY = 3.0  # a bit above the budget, in units of the loss
PACE = 50.0  # of widths: at a rate of 1e-3, 20 steps move a width by about a bit
FEWEST, MOST = QUANTIZED_BITS[0], QUANTIZED_BITS[-1]


class NoisyGrid(nn.Module):
    """Rounds, or adds noise as large as rounding would, with a trained clip and width.

    Args:
        steps: Positive, [C] for a clip a channel of the first axis, [] for one.
        bits: Width to start from.
        extra: Integers more below zero than above.
        amount: How many numbers pass it: its weight in the mean of bits.
    """

    fixed_bits: Tensor

    def __init__(self, steps: Tensor, bits: int, extra: int, amount: float) -> None:
        super().__init__()
        self.log_clips = nn.Parameter((steps.detach().clone() * largest_integer(bits)).log())
        share = min(max((bits - FEWEST) / (MOST - FEWEST), 0.02), 0.98)
        self.theta = nn.Parameter(torch.tensor(math.log(share / (1 - share)) / PACE))
        # 0 while they are trained; a whole number, so that it is copied, not averaged
        self.register_buffer("fixed_bits", torch.tensor(0))
        self.extra = extra
        self.amount = amount

    @property
    def bits(self) -> Tensor:
        """The width now [scalar]."""
        if self.fixed_bits > 0:
            return self.fixed_bits.float()
        return FEWEST + (MOST - FEWEST) * (PACE * self.theta).sigmoid()

    @property
    def steps(self) -> Tensor:
        """Steps at the width now, in the shape they were given."""
        return self.log_clips.exp() / (2 ** (self.bits - 1) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Round or disturb a tensor of any shape."""
        steps = self.steps if self.log_clips.ndim == 0 else self.steps.view(-1, 1, 1, 1)
        top = 2 ** (self.bits - 1) - 1
        inside = torch.minimum(torch.maximum(x / steps, -top - self.extra), top)
        errors = (inside.round() - inside).detach()
        if self.training and self.fixed_bits == 0:
            shift = int(torch.randint(errors.numel(), ()))
            errors = errors.flatten().roll(shift).view_as(errors)
        return (inside + errors) * steps


class Nipq(Method):
    """Trains bit widths whose means are at most those of the bits given.

    Args:
        bits: (weight_bits, act_bits) by convolution: the budget, and where to start.
        scales: Activation scales to start from; needed where an activation has a grid.
    """

    def __init__(self, bits: Bits, scales: ActivationScales | None = None) -> None:
        self._bits = bits
        self._scales = scales

    def install(self, net: nn.Module) -> None:
        """Put a noisy grid on every weight and input that has a grid."""

        # Symmetric at every width it may end with: eight bits have no smallest integer.
        def weight_grid(weight: Tensor, _signs: Tensor, bits: int) -> nn.Module:
            return NoisyGrid(weight_scales(weight, bits), bits, 0, weight.numel())

        def act_grid(layer: str, bits: int) -> nn.Module:
            step = torch.tensor(input_scale(self._scales, layer, bits))
            return NoisyGrid(step, bits, 1, 1.0)

        # One grid for all layers that share a scale, whatever their widths were: their common width
        # is what is trained.
        install_grids(net, self._bits, self._scales, weight_grid, act_grid, by_width=False)

    def penalty(self, net: nn.Module, progress: float) -> Tensor | None:
        """Return the bits above the budget, while they are trained."""
        if progress >= NOISE_UNTIL:
            return None
        total = torch.zeros(())
        for grids, asked in self._families(net):
            mean = _mean(grids, {name: grid.bits for name, grid in grids.items()})
            total = total.to(mean.device) + (mean - _mean(grids, asked)).relu()
        return PENALTY * total

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Fix the bits when the noise ends."""
        if progress >= NOISE_UNTIL:
            self._fix_bits(net)

    def _fix_bits(self, net: nn.Module) -> None:
        for grids, asked in self._families(net):
            if all(grid.fixed_bits > 0 for grid in grids.values()):
                continue
            wanted = {name: float(grid.bits) for name, grid in grids.items()}
            amounts = {name: grid.amount for name, grid in grids.items()}
            for name, width in whole_bits(wanted, amounts, asked).items():
                grids[name].fixed_bits.fill_(width)

    @torch.no_grad()
    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Leave weights on their grids; return the learned bits and scales."""
        self._fix_bits(net)  # where a training was stopped early
        weights, acts = self._weights(net), self._acts(net)
        learned = {
            name: (
                int(weights[name].bits) if name in weights else weight_bits,
                int(acts[name].bits) if name in acts else act_bits,
            )
            for name, (weight_bits, act_bits) in self._bits.items()
        }
        steps = {name: float(grid.steps) for name, grid in acts.items()}
        remove_grids(net, self._bits)
        return Grids({**grids.bits, **learned}, with_steps(self._scales, learned, steps))

    def _weights(self, net: nn.Module) -> dict[str, NoisyGrid]:
        found = {}
        for name, (width, _) in self._bits.items():
            if is_quantized(width):
                # behind a mask, if there is one
                steps = find_convolution(net, name).get_submodule("parametrizations.weight")
                found[name] = next(m for m in steps.children() if isinstance(m, NoisyGrid))
        return found

    def _acts(self, net: nn.Module) -> dict[str, NoisyGrid]:
        """Return the grid of each layer's input; layers may share one."""
        quantized = [name for name, (_, width) in self._bits.items() if is_quantized(width)]
        found = {}
        for name in quantized:
            grid = find_convolution(net, name).get_submodule(GRID)
            assert isinstance(grid, NoisyGrid)
            found[name] = grid
        return found

    def _families(self, net: nn.Module) -> list[tuple[dict[str, NoisyGrid], dict[str, float]]]:
        """Return the grids of weights and of activations, each once, with the mean bits asked."""
        weights = self._weights(net)
        readers: dict[NoisyGrid, list[str]] = {}
        for name, grid in self._acts(net).items():
            readers.setdefault(grid, []).append(name)
        acts = {names[0]: grid for grid, names in readers.items()}
        for names in readers.values():
            acts[names[0]].amount = len(names)
        asked = {
            names[0]: sum(self._bits[name][1] for name in names) / len(names)
            for names in readers.values()
        }
        return [(weights, {name: float(self._bits[name][0]) for name in weights}), (acts, asked)]


def _mean(grids: Mapping[str, NoisyGrid], bits: Mapping[str, Tensor | float]) -> Tensor:
    if not grids:
        return torch.zeros(())
    total = sum(grid.amount for grid in grids.values())
    parts = [torch.as_tensor(bits[name]) * (grid.amount / total) for name, grid in grids.items()]
    return torch.stack(parts).sum()


def whole_bits(
    wanted: Mapping[str, float], amounts: Mapping[str, float], asked: Mapping[str, float]
) -> dict[str, int]:
    """Round bit widths so that their weighted mean is at most that of the bits asked.

    Args:
        wanted: Width by layer, any real number of 2 to 8.
        amounts: Weight of a layer in the mean.
        asked: The budget: width by layer.

    Returns:
        Whole widths: the nearest, or, as long as the mean is above the budget, one less where that
        changes least.
    """
    bits = {name: min(max(round(value), FEWEST), MOST) for name, value in wanted.items()}
    budget = sum(amounts[name] * asked[name] for name in bits) * (1 + 1e-9)
    while sum(amounts[name] * bits[name] for name in bits) > budget:
        lower = [name for name in bits if bits[name] > FEWEST]
        if not lower:
            break
        bits[min(lower, key=lambda name: wanted[name] - bits[name])] -= 1
    return bits
