"""Layer-adaptive magnitude: Lee et al., LAMP, arXiv 2010.07778, equation 4, on whole filters.

Within one convolution the order is that of the L2 norm; what the score adds is a scale that is the
same in all layers: the strongest filter has 1. It is summed over a group's members as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from ultralytics.nn.modules import Conv


def lamp(block: Conv) -> Tensor:
    """Return each filter's squared norm over that of all filters at least as strong [C]."""
    square_C = block.conv.weight.flatten(1).double().square().sum(1)
    at_least_CC = square_C[None, :] >= square_C[:, None]
    stronger_C = (square_C * at_least_CC).sum(1)
    return torch.where(stronger_C > 0, square_C / stronger_C, torch.zeros_like(square_C))
