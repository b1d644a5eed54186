"""Clip at a magnitude that few exceed."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.calibrators.minmax import minmax_clip

SHARE = 0.9999  # as NVIDIA recommends for activations (Wu et al., arXiv 2004.09602, table 5)


def percentile_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip where `SHARE` of all magnitudes are no larger (Wu et al., arXiv 2004.09602)."""
    sorted_RN, order_RN = magnitudes.sort(1)
    reached_RN = counts.expand_as(magnitudes).gather(1, order_RN).double().cumsum(1)
    wanted_R1 = SHARE * reached_RN[:, -1:]
    place_R1 = torch.searchsorted(reached_RN, wanted_R1).clamp_max(magnitudes.shape[1] - 1)
    found = sorted_RN.gather(1, place_R1)[:, 0]
    # most of a row may be zeros: a grid needs a positive clip
    return torch.where(found > 0, found, minmax_clip(magnitudes, counts, bits))
