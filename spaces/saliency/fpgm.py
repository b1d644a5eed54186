"""Distance to the other filters: He et al., FPGM, arXiv 1811.00250, equation 7.

A filter near the geometric median of all filters of its layer can be replaced by the others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from ultralytics.nn.modules import Conv


def fpgm(block: Conv) -> Tensor:
    """Return the sum of each filter's L2 distances to all filters of the layer [C]."""
    filters_CF = block.conv.weight.flatten(1).double()
    return torch.cdist(filters_CF, filters_CF, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
