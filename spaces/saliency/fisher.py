"""Second order with a diagonal Hessian: how much a distance of detections would grow.

The Hessian is that of the distance in `random_projection`, at the dense model, where the distance
is zero and has no gradient. Scores are in its units and are summed over a group's members as they
are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from spaces.saliency.objectives import random_projection
from spaces.saliency.watching import blocks, watch_gradients, weight_gradients


def obd(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure 1/2 sum h w^2 over each filter, h the Hessian's diagonal.

    LeCun et al., Optimal Brain Damage, 1989, equation 5; the diagonal from squared gradients as in
    Theis et al., Faster gaze prediction with dense networks and Fisher pruning, arXiv 1801.05787.

    Args:
        net: The dense network, in evaluation mode.
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the score of each channel [C] of a block of `net`.
    """
    of_blocks = blocks(net)
    names = [f"{name}.conv" for name in of_blocks]
    objective = random_projection(torch.Generator().manual_seed(0))
    totals: dict[nn.Module, Tensor] = {}
    for gradients in weight_gradients(net, names, images, objective):
        for block, gradient in zip(of_blocks.values(), gradients.values(), strict=True):
            product = (gradient * block.conv.weight.detach()).flatten(1).double()
            totals[block] = totals.get(block, 0) + product.square().sum(1) / (2 * len(images))
    return totals.__getitem__


def fisher(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure 1/2 (sum g a)^2 over each feature map, averaged over images.

    The second order in a gate that multiplies the whole channel: Theis et al., arXiv 1801.05787,
    equation 6.

    Args:
        net: See `obd`.
        images: See `obd`.

    Returns:
        See `obd`.
    """
    return gate_curvature(net, blocks(net), lambda _, output: output, images)


def gate_curvature(
    net: nn.Module,
    watched: dict[str, Conv],
    signal: Callable[[Conv, Tensor], Tensor],
    images: Tensor,
) -> Callable[[Conv], Tensor]:
    """Measure half the curvature by a factor on a signal in each channel of each block.

    Args:
        net: The dense network, in evaluation mode.
        watched: For each module whose output the factors are on, the block it is in.
        signal: What the factors multiply, given the block and the output [B, C, h, w].
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the curvature of each channel [C] of one of the blocks.
    """
    totals: dict[nn.Module, Tensor] = {}

    def record(name: str, _x: Tensor, output: Tensor, gradient: Tensor) -> None:
        block = watched[name]
        change_BC = (signal(block, output) * gradient).double().sum((2, 3))
        totals[block] = totals.get(block, 0) + change_BC.square().sum(0) / (2 * len(images))

    objective = random_projection(torch.Generator().manual_seed(0))
    watch_gradients(net, list(watched), images, objective, record)
    return totals.__getitem__
