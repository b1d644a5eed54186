"""Size of a channel's filter: Li et al., Pruning Filters for Efficient ConvNets, arXiv 1608.08710.

The weights are taken as they are, as in the paper. Behind them stands a batch norm that undoes
their scale; with its scale multiplied in, these criteria do far worse (the classic YOLOv5n on
64 images of COCO val2017 at 320 px, the 10 % least of each bottleneck's first convolution removed:
mAP50-95 .248 with the weights alone, .004 with gamma / sqrt(var + eps) in them, .293 dense). For
the same reason they are a poor choice for models whose batch norms are folded into the weights.
"""

from __future__ import annotations

from torch import Tensor
from ultralytics.nn.modules import Conv


def l1(block: Conv) -> Tensor:
    """Return the sum of |w| of each channel's filter [C]."""
    size: Tensor = block.conv.weight.flatten(1).abs().sum(1)
    return size


def l2(block: Conv) -> Tensor:
    """Return the square root of the sum of w**2 of each channel's filter [C]."""
    size: Tensor = block.conv.weight.flatten(1).norm(dim=1)
    return size
