"""The clip with the least p-th power of the error, for any p."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.calibrators.minmax import minmax_clip
from spaces.quantization.grid import largest_integer

COARSE_RATIOS = 20
FINE_STEPS = 4  # between two coarse ratios


def least_power_clip(magnitudes: Tensor, counts: Tensor, bits: int, power: float) -> Tensor:
    """Return c = argmin_c E[| |x| - Q(min(|x|, c)) |^p] of each row [R].

    Searched on a grid of ratios to the largest magnitude and once more, finer, around the best.

    Args:
        magnitudes: See `Calibrator`.
        counts: See `Calibrator`.
        bits: See `Calibrator`.
        power: p, at least 1.
    """
    top = largest_integer(bits)
    peaks = minmax_clip(magnitudes, counts, bits)
    each_once = counts.numel() == 1  # weights
    at_peak = counts[0] if each_once else ((magnitudes == peaks[:, None]) * counts).sum(1)
    best, least = peaks, torch.full_like(peaks, torch.inf)
    coarse_step = 1 / COARSE_RATIOS
    for ratio in torch.arange(COARSE_RATIOS, 0, -1) * coarse_step:
        clips = ratio * peaks
        # A clip errs at least by what it takes from the largest magnitude: if that alone is too
        # much in all rows, so it is for all smaller clips.
        if ((peaks - clips).pow(power) * at_peak >= least).all():
            break
        errors = _errors(magnitudes, counts, clips, top, power)
        best, least = torch.where(errors < least, clips, best), torch.minimum(errors, least)
    offsets = torch.linspace(1, -1, 2 * FINE_STEPS + 1)[:, None] * coarse_step
    fine = torch.minimum(best + offsets * peaks, peaks)
    for row in [row for row in range(1, 2 * FINE_STEPS) if row != FINE_STEPS]:
        if (fine[row] == fine[FINE_STEPS]).all():  # it is at the peak already
            continue
        errors = _errors(magnitudes, counts, fine[row], top, power)
        best, least = torch.where(errors < least, fine[row], best), torch.minimum(errors, least)
    return best


def _errors(magnitudes: Tensor, counts: Tensor, clips: Tensor, top: int, power: float) -> Tensor:
    """Return the p-th power of the error of each row [R] with its clip [R]."""
    steps = (clips / top)[:, None]
    missed = (magnitudes / steps).round_().clamp_(max=top).mul_(steps).sub_(magnitudes)
    if power == 2 and counts.numel() == 1:  # one pass instead of three
        return torch.linalg.vecdot(missed, missed) * counts[0]
    return missed.abs_().pow_(power).mul_(counts).sum(1)
