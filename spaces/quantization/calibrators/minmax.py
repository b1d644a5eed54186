"""Clip at the largest magnitude."""

from __future__ import annotations

import torch
from torch import Tensor


def minmax_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip at the largest magnitude: nothing saturates, outliers cost resolution."""
    del bits  # the range does not depend on it
    peaks = torch.where(counts > 0, magnitudes, 0).amax(1)
    return torch.where(peaks > 0, peaks, 1)
