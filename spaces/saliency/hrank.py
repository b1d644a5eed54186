"""Average rank of a channel's feature map: Lin et al., HRank, arXiv 2002.10179, equation 4.

The paper's networks have ReLU, which makes whole regions zero. SiLU hardly does: nearly all maps
have full rank, and the order says little.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from spaces.saliency.watching import watch_outputs


def hrank(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure all blocks of a network.

    Args:
        net: The dense network, in evaluation mode.
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the mean rank of each channel's feature map [C], in 0..min(h, w).
    """
    ranks: dict[nn.Module, Tensor] = {}

    def record(block: nn.Module, output_BCHW: Tensor) -> None:
        now_C = torch.linalg.matrix_rank(output_BCHW).double().sum(0) / len(images)
        ranks[block] = ranks.get(block, 0) + now_C

    watch_outputs(net, images, record)
    return ranks.__getitem__
