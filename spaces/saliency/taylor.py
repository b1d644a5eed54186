"""First-order Taylor expansions: what the confidence would lose with a channel.

The loss is `confidence_loss`: no labels. Scores are in its units, squared for weights, and are
summed over a group's members as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from spaces.saliency.objectives import confidence_loss
from spaces.saliency.watching import blocks, watch_gradients, weight_gradients


def taylor_weight(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure (sum g w)^2 over each filter, averaged over images.

    Molchanov et al., Importance Estimation for Neural Network Pruning, arXiv 1906.10771, equation 8
    for the group of a filter's weights.

    Args:
        net: The dense network, in evaluation mode.
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the score of each channel [C] of a block of `net`.
    """
    of_blocks = blocks(net)
    names = [f"{name}.conv" for name in of_blocks]
    totals: dict[nn.Module, Tensor] = {}
    for gradients in weight_gradients(net, names, images, confidence_loss):
        for block, gradient in zip(of_blocks.values(), gradients.values(), strict=True):
            product_C = (gradient * block.conv.weight.detach()).flatten(1).double().sum(1)
            totals[block] = totals.get(block, 0) + product_C.square() / len(images)
    return totals.__getitem__


def taylor_activation(net: nn.Module, images: Tensor) -> Callable[[Conv], Tensor]:
    """Measure |mean g a| over each feature map, averaged over images.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv 1611.06440, equation 8. The sum instead of the mean over positions: the loss changes by
    it, and members of a group may have maps of different sizes.

    Args:
        net: See `taylor_weight`.
        images: See `taylor_weight`.

    Returns:
        See `taylor_weight`.
    """
    of_blocks = blocks(net)
    totals: dict[nn.Module, Tensor] = {}

    def record(name: str, _x: Tensor, output: Tensor, gradient: Tensor) -> None:
        change_BC = (output * gradient).double().sum((2, 3))
        block = of_blocks[name]
        totals[block] = totals.get(block, 0) + change_BC.abs().sum(0) / len(images)

    watch_gradients(net, list(of_blocks), images, confidence_loss, record)
    return totals.__getitem__
