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
    peaks = minmax_clip(magnitudes, counts, bits)
    each_once = counts.numel() == 1  # weights
    at_peak = counts[0] if each_once else ((magnitudes == peaks[:, None]) * counts).sum(1)
    top = largest_integer(bits)
    best, least = peaks, torch.full_like(peaks, torch.inf)
    coarse_step = 1 / COARSE_RATIOS
    for ratio in range(COARSE_RATIOS, 0, -1):
        clips = ratio * coarse_step * peaks
        # A clip errs at least by what it takes from the largest magnitude: if that alone is too
        # much in all rows, so it is for all smaller clips.
        if ((peaks - clips).pow(power) * at_peak >= least).all():
            break
        best, least = _better(best, least, clips, magnitudes, counts, top, power)
    start = best
    for step in range(FINE_STEPS - 1, 0, -1):
        offset = step / FINE_STEPS * coarse_step * peaks
        larger, smaller = torch.minimum(start + offset, peaks), start - offset
        if (larger > start).any():
            best, least = _better(best, least, larger, magnitudes, counts, top, power)
        best, least = _better(best, least, smaller, magnitudes, counts, top, power)
    return best


def _better(
    best: Tensor,
    least: Tensor,
    clips: Tensor,
    magnitudes: Tensor,
    counts: Tensor,
    top: int,
    power: float,
) -> tuple[Tensor, Tensor]:
    """Return the clips of less error and that error: of each row the one so far or the new."""
    steps = clips / top
    scaled = magnitudes / steps[:, None]
    missed = scaled.round().clamp_(max=top).sub_(scaled)
    if power == 2 and counts.numel() == 1:  # one pass instead of three
        errors = torch.linalg.vecdot(missed, missed) * counts[0]
    else:
        errors = missed.abs_().pow_(power).mul_(counts).sum(1)
    errors = errors * steps**power
    return torch.where(errors < least, clips, best), torch.minimum(errors, least)
