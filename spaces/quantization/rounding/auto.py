"""Grid and rounding chosen by evidence: the error that they leave at the layer's output.

No calibrator is best for all layers: the clip of least weight error ignores that features count
differently, and a rounding that corrects itself (GPTQ) wants another clip than rounding to nearest.
So every row is rounded on the grid of every calibrator, and on some that are tighter, and keeps
what costs least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from spaces.quantization.calibrators import CALIBRATORS, weight_scales
from spaces.quantization.grid import largest_integer
from spaces.quantization.rounding.gptq import gptq
from spaces.quantization.rounding.interface import Rounding
from spaces.quantization.rounding.layer_error import layer_error
from spaces.quantization.rounding.nearest import nearest

PEAK_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


class WeightRounding(Protocol):
    """Chooses a grid for each row and rounds to it."""

    def __call__(self, weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
        """Round a weight [O, I, kh, kw]; letters and arguments as in `Rounding`."""


def auto(weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
    """Round with the grid and by the method that leave each row the least error."""
    peaks_O = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-30) / largest_integer(bits)
    grids = [weight_scales(weight, bits), *(peaks_O * share for share in PEAK_SHARES)]
    return best_of(weight, hessian_FF, grids, [nearest, gptq], bits)


def best_of(
    weight: Tensor,
    hessian_FF: Tensor,
    grids: Sequence[Tensor],
    roundings: Sequence[Rounding],
    bits: int,
) -> Tensor:
    """Return for each row the rounding of least error.

    Args:
        weight: [O, I, kh, kw] or [O, F].
        hessian_FF: See `Rounding`.
        grids: Steps [O] to try.
        roundings: Methods to try on each.
        bits: 2 to 8.
    """
    repeated = torch.cat([weight] * len(grids))  # rows do not depend on each other
    tried = [rounding(repeated, hessian_FF, torch.cat(list(grids)), bits) for rounding in roundings]
    all_tried = torch.stack([x.view(len(grids), *weight.shape) for x in tried]).flatten(0, 1)
    errors_KO = torch.stack([layer_error(weight, x, hessian_FF) for x in all_tried])
    return all_tried[errors_KO.argmin(0), torch.arange(len(weight))]


def fixed(calibrator: str, rounding: Rounding) -> WeightRounding:
    """Return the weight rounding with one calibrator and one method for all layers."""

    def round_weight(weight: Tensor, hessian_FF: Tensor, bits: int) -> Tensor:
        steps_O = weight_scales(weight, bits, CALIBRATORS[calibrator])
        return rounding(weight, hessian_FF, steps_O, bits)

    return round_weight
