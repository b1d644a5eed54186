"""Size of a channel's filter: Li et al., Pruning Filters for Efficient ConvNets, arXiv 1608.08710.

The filter is taken with the batch norm's scale in it (w * gamma / sqrt(var + eps)): the scale of a
convolution's own weights means nothing once they are normalised, and so a model scores the same
whether its batch norms are folded into the weights or not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from ultralytics.nn.modules import Conv


def l1(block: Conv) -> Tensor:
    """Return the sum of |w| of each channel's filter [C]."""
    return _filters(block).abs().sum(1)


def l2(block: Conv) -> Tensor:
    """Return the square root of the sum of w**2 of each channel's filter [C]."""
    return _filters(block).square().sum(1).sqrt()


def _filters(block: Conv) -> Tensor:
    """Return the filters [C, weights] with the batch norm's scale in them."""
    scale = block.bn.weight / torch.sqrt(block.bn.running_var + block.bn.eps)
    filters: Tensor = block.conv.weight.flatten(1) * scale[:, None]
    return filters
