"""The clip with the least p-th power of the error, for any p."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.calibrators.minmax import minmax_clip
from spaces.quantization.grid import largest_integer

COARSE_RATIOS = 20
FINE_RATIOS = 8


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
    coarse_step = 1 / COARSE_RATIOS
    coarse = torch.arange(COARSE_RATIOS, 0, -1) * coarse_step
    best = _best_clips(magnitudes, counts, bits, coarse[:, None] * peaks, power)
    offsets = torch.linspace(1, -1, FINE_RATIOS + 1) * coarse_step  # 0 among them
    fine = (best + offsets[:, None] * peaks).clamp(min=peaks * coarse_step / 4)
    return _best_clips(magnitudes, counts, bits, torch.minimum(fine, peaks), power)


def _best_clips(
    magnitudes: Tensor, counts: Tensor, bits: int, clips: Tensor, power: float
) -> Tensor:
    """Return for each row the best of its column of `clips` [K, R], falling; of equals the first.

    A clip errs at least by what it takes from the largest magnitude. Where that alone is more than
    the least error so far, in all rows, smaller clips are not looked at.
    """
    top = largest_integer(bits)
    peaks = minmax_clip(magnitudes, counts, bits)
    peak_counts = ((magnitudes == peaks[:, None]) * counts).sum(1)
    best, least = clips[0], torch.full_like(peaks, torch.inf)
    for row_clips in clips:
        if ((peaks - row_clips).pow(power) * peak_counts >= least).all():
            break
        step = (row_clips / top)[:, None]
        rounded = (magnitudes / step).round_().clamp_(max=top).mul_(step)
        missed = rounded.sub_(magnitudes)
        if power == 2 and counts.numel() == 1:  # weights: one pass instead of three
            errors = torch.linalg.vecdot(missed, missed) * counts[0]
        else:
            errors = missed.abs_().pow_(power).mul_(counts).sum(1)
        best = torch.where(errors < least, row_clips, best)
        least = torch.minimum(errors, least)
    return best
