"""Clip where the rounded distribution tells most about the real one."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.calibrators.minmax import minmax_clip
from spaces.quantization.grid import largest_integer

BINS = 1024
THRESHOLDS = 48
ROWS = 256  # of a weight, at a time: bounds the memory
SMOOTHING = 1e-4  # of the mean count: an empty bin of Q that P uses costs much, not everything


def kl_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip where the Kullback-Leibler divergence of rounded from real magnitudes is least.

    For each threshold P is the histogram below it, with all that is above in its last bin; Q is
    the same histogram merged to the grid's levels and spread again evenly over the bins that are
    not empty. (Migacz, 8-bit inference with TensorRT, GTC 2017.)
    """
    peaks_R = minmax_clip(magnitudes, counts, bits)
    parts = zip(
        magnitudes.split(ROWS),
        counts.expand_as(magnitudes).split(ROWS),
        peaks_R.split(ROWS),
        strict=True,
    )
    levels = largest_integer(bits) + 1
    shares = [_best_shares(_histogram(*part), levels) for part in parts]
    return peaks_R * torch.cat(shares)


def _histogram(magnitudes_RN: Tensor, counts_RN: Tensor, peaks_R: Tensor) -> Tensor:
    """Count magnitudes in equal bins of 0..peak, [R, BINS]."""
    bins_RN = (magnitudes_RN / peaks_R[:, None] * BINS).long().clamp_(max=BINS - 1)
    empty = torch.zeros(len(magnitudes_RN), BINS)
    return empty.scatter_add_(1, bins_RN, counts_RN.float())


def _best_shares(histogram_RB: Tensor, levels: int) -> Tensor:
    """Return the best threshold of each row as a share of its peak."""
    first = max(levels, BINS // THRESHOLDS)
    thresholds = torch.linspace(BINS, first, THRESHOLDS).round().long().tolist()
    divergence_KR = torch.stack([_divergence(histogram_RB, t, levels) for t in thresholds])
    return torch.tensor(thresholds)[divergence_KR.argmin(0)] / BINS


def _divergence(histogram_RB: Tensor, threshold: int, levels: int) -> Tensor:
    """Return KL(P || Q) of each row."""
    inside = histogram_RB[:, :threshold]
    real = inside.clone()
    real[:, -1] += histogram_RB[:, threshold:].sum(1)
    level_of_bin = torch.arange(threshold) * levels // threshold
    used = (inside > 0).float()
    merged, bins_used = (
        torch.zeros(len(inside), levels).index_add_(1, level_of_bin, x) for x in (inside, used)
    )
    rounded = (merged / bins_used.clamp_min(1))[:, level_of_bin] * used
    p, q = (x + SMOOTHING * x.mean(1, keepdim=True) + 1e-30 for x in (real, rounded))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum(1)
