"""Scale of the batch norm: Liu et al., Network Slimming, arXiv 1708.06519.

It means something for models trained with a penalty on it; for others it is a poor guide.
"""

from __future__ import annotations

from torch import Tensor
from ultralytics.nn.modules import Conv


def bn_gamma(block: Conv) -> Tensor:
    """Return |gamma| of each channel [C]."""
    gamma: Tensor = block.bn.weight.abs()
    return gamma
