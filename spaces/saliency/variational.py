"""Noise that a channel bears: variational criteria from calibration statistics, without training.

Both papers train a distribution of a factor on every channel. At the dense model the best Gaussian
follows from the curvature h of the loss by that factor alone; h is measured as in `fisher`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from spaces.saliency.fisher import fisher, gate_curvature
from spaces.saliency.watching import blocks


def information(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure the mutual information that each channel would have to let through, in nats.

    Dai et al., Compressing Neural Networks using the Variational Information Bottleneck,
    arXiv 1802.10399: a factor z ~ N(1, s) on every channel, penalty 1/2 log(1 + 1/s). With a loss
    that grows by h s / 2 the best variance solves h = b / (s (1 + s)); the price b of a nat is the
    mean of h over the block's channels, so that the score does not depend on its scale.

    Args:
        net: The dense network, in evaluation mode.
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the nats of each channel [C] of a block of `net`.
    """
    curvature = fisher(net, images)

    def nats(block: Conv) -> Tensor:
        h_C = 2 * curvature(block)
        price = h_C.mean()
        if price <= 0:
            return torch.zeros_like(h_C)
        # s = (sqrt(1 + 4 b / h) - 1) / 2; 1 / s = 2 (sqrt(1 + 4 b / h) + 1) / (4 b / h)
        ratio_C = h_C / (4 * price)
        inverse_C = (ratio_C.square() + ratio_C).sqrt() * 2 + 2 * ratio_C
        return torch.log1p(inverse_C) / 2

    return nats


def variational(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure the signal-to-noise ratio of each batch norm's scale.

    Zhao et al., Variational Convolutional Neural Network Pruning, CVPR 2019: channels whose scale
    gamma ~ N(mu, s) is indistinguishable from zero are redundant. With gamma of the trained model
    as mu and the Laplace approximation s = 1 / h, the ratio mu^2 / s is gamma^2 h: half the
    curvature by a factor on the scaled signal gamma x, without its shift beta, is returned.

    Args:
        net: See `information`.
        images: See `information`.

    Returns:
        A criterion: the ratio of each channel [C] of a block of `net`.
    """
    norms = {f"{name}.bn": block for name, block in blocks(net).items()}

    def scaled(block: Conv, output: Tensor) -> Tensor:
        return output - block.bn.bias.detach()[:, None, None]

    return gate_curvature(net, norms, scaled, images)
