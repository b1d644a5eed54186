"""How the clip of a symmetric grid is chosen from the magnitudes it must represent.

Letters: R rows that get a clip each (output channels of a weight, groups of activations), N
magnitudes a row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from spaces.quantization.grid import largest_integer, steps_on_grid

COARSE_RATIOS = 20
FINE_RATIOS = 8


class Calibrator(Protocol):
    """Chooses one clip a row. Every calibrator is a function of this form, listed in CALIBRATORS.

    Its clips are positive and at most the row's largest magnitude (1 for a row of zeros), scale
    with the row, and depend neither on the order of magnitudes nor on other rows.
    """

    def __call__(self, magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
        """Choose clips.

        Args:
            magnitudes: [R, N], not negative.
            counts: How often each occurs, [R, N] or broadcastable to it; 0 for not at all.
            bits: Bit width of the grid, 2 to 8.

        Returns:
            Clips [R].
        """


def minmax_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip at the largest magnitude: nothing saturates, outliers cost resolution."""
    del bits  # the range does not depend on it
    peaks = torch.where(counts > 0, magnitudes, 0).amax(1)
    return torch.where(peaks > 0, peaks, 1)


def mse_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip where the mean squared error of rounding and saturating is least.

    c = argmin_c E[(|x| - Q(min(|x|, c)))^2], searched on a grid of ratios to the largest magnitude
    and once more, finer, around the best of them. (MSE clipping as in the error-limit method,
    Infrared and Laser Engineering 51(4) 20220166.)
    """
    peaks = minmax_clip(magnitudes, counts, bits)
    coarse_step = 1 / COARSE_RATIOS
    coarse = torch.arange(COARSE_RATIOS, 0, -1) * coarse_step
    best = _best_clips(magnitudes, counts, bits, coarse[:, None] * peaks)
    offsets = torch.linspace(1, -1, FINE_RATIOS + 1) * coarse_step  # 0 among them
    fine = (best + offsets[:, None] * peaks).clamp(min=peaks * coarse_step / 4)
    return _best_clips(magnitudes, counts, bits, torch.minimum(fine, peaks))


def _best_clips(magnitudes: Tensor, counts: Tensor, bits: int, clips: Tensor) -> Tensor:
    """Return for each row the best of its column of `clips` [K, R]; of equals the first."""
    top = largest_integer(bits)
    errors = []
    for row_clips in clips:
        step = (row_clips / top)[:, None]
        rounded = (magnitudes / step).round_().clamp_(max=top).mul_(step)
        errors.append(rounded.sub_(magnitudes).square_().mul_(counts).sum(1))
    return clips.gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]


CALIBRATORS: dict[str, Calibrator] = {"minmax": minmax_clip, "mse": mse_clip}


def weight_scales(weight: Tensor, bits: int, calibrator: Calibrator = mse_clip) -> Tensor:
    """Choose the step of each output channel of a weight.

    A channel that is on a grid of this bit width already keeps it, so that rounding it again
    changes nothing, whichever method rounded it first.

    Args:
        weight: [O, I, kh, kw].
        bits: 2 to 8.
        calibrator: How the clip is chosen.

    Returns:
        Positive steps [O].
    """
    rows = weight.detach().abs().flatten(1)
    known = steps_on_grid(rows, bits)
    if (known > 0).all():
        return known
    chosen = calibrator(rows, torch.ones(1, 1), bits) / largest_integer(bits)
    return torch.where(known > 0, known, chosen)
