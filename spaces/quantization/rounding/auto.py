"""Grid and rounding chosen by evidence: the error that they leave at the layer's output.

No calibrator is best for all layers: the clip of least weight error ignores that features count
differently, and a rounding that corrects itself (GPTQ) wants another clip than rounding to nearest.
So every row is rounded by GPTQ on the grids of several calibrators and on some that saturate more,
and goes on from what costs least by coordinate descent and the step that suits the integers found,
in turn. Neither ever makes it worse.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from spaces.quantization.calibrators import CALIBRATORS, weight_scales
from spaces.quantization.grid import weight_range
from spaces.quantization.rounding.descent import improved
from spaces.quantization.rounding.gptq import damped, gptq
from spaces.quantization.rounding.interface import Rounding
from spaces.quantization.rounding.layer_error import layer_error
from spaces.quantization.rounding.nearest import nearest

TRIED_CALIBRATORS = ("mse", "lapq")
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the step at which nothing saturates
ROUNDS = 3  # of descent and a better step in turn
TINY = 1e-30


class WeightRounding(Protocol):
    """Chooses a grid for each row and rounds to it."""

    def __call__(self, weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
        """Round a weight [O, I, kh, kw]; letters and arguments as in `Rounding`."""


def auto(weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
    """Round each row on the grid that suits it best, then improve weight by weight."""
    grids_KO = candidate_grids(weight, bits)
    # rows do not depend on each other: all grids at once
    repeated = torch.cat([weight] * len(grids_KO))
    tried = gptq(repeated, hessian_FF, grids_KO.flatten(), bits)
    errors_KO = layer_error(repeated, tried, damped(hessian_FF)).view_as(grids_KO)
    best_O, rows_O = errors_KO.argmin(0), torch.arange(len(weight))
    rounded = tried.view(len(grids_KO), *weight.shape)[best_O, rows_O]
    steps_O = grids_KO[best_O, rows_O]
    for _ in range(ROUNDS):
        rounded = improved(weight, rounded, hessian_FF, steps_O, bits)
        rounded, steps_O = stretched(weight, rounded, hessian_FF, steps_O)
    return rounded


def stretched(
    weight: Tensor, rounded: Tensor, hessian_FF: Tensor, steps_O: Tensor
) -> tuple[Tensor, Tensor]:
    """Keep the integers of each row and take the step that suits them best, w H q / q H q.

    Returns:
        The rounded weight and its steps [O].
    """
    weight_OF, rounded_OF = weight.flatten(1), rounded.flatten(1)
    pull_OF = rounded_OF @ damped(hessian_FF)
    gain_O = (pull_OF * weight_OF).sum(1) / (pull_OF * rounded_OF).sum(1).clamp_min(TINY)
    gain_O = torch.where(gain_O > 0, gain_O, 1.0)  # a row of zeros stays
    return (rounded_OF * gain_O[:, None]).view_as(rounded), steps_O * gain_O


def auto_below_8(weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
    """Round like `auto`, but at 8 bits to nearest: `auto` is not worth its time there."""
    if bits == 8:
        return nearest(weight, hessian_FF, weight_scales(weight, bits), bits)
    return auto(weight, hessian_FF, bits)


def candidate_grids(weight: Tensor, bits: int) -> Tensor:
    """Return steps to try, [K, O]: of calibrators, one at which nothing saturates, and less."""
    calibrated = [weight_scales(weight, bits, CALIBRATORS[name]) for name in TRIED_CALIBRATORS]
    low, top = weight_range(bits)
    rows = weight.detach().flatten(1)
    full_O = torch.maximum(rows.amax(1) / top, rows.amin(1) / low).clamp_min(TINY)
    return torch.stack([*calibrated, *(full_O * share for share in SHARES)])


def fixed(calibrator: str, rounding: Rounding) -> WeightRounding:
    """Return the weight rounding with one calibrator and one method for all layers."""

    def round_weight(weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
        steps_O = weight_scales(weight, bits, CALIBRATORS[calibrator])
        return rounding(weight, hessian_FF, steps_O, bits)

    return round_weight
