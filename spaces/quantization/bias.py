"""Bias correction: give every output channel of a rounded layer its mean back.

Nagel et al., arXiv 1906.04721, section 4.2: a rounded weight W + D shifts the mean output of its
layer by D E[x], which the bias can take back. With the means of real images, one layer after the
other, what the layers before shifted is taken back as well. It helps 8-bit networks; where rounding
changes much, the mean is not what is wrong, and correcting it alone makes things worse.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def mean_outputs(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the mean output of each channel of each convolution [O], by module name."""
    means: dict[str, Tensor] = {}

    def note(name: str, y: Tensor) -> None:
        means[name] = y.mean((0, 2, 3))

    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: note(name, y))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return means


@torch.no_grad()
def correct_bias(net: nn.Module, images: Tensor, dense_means: Mapping[str, Tensor]) -> None:
    """Shift every convolution's output to its dense mean, in place, in one forward pass.

    Args:
        net: A quantised network whose channels are all there.
        images: [N, 3, H, W] in 0..1, those that `dense_means` was measured on.
        dense_means: What `mean_outputs` returned for the dense network.
    """

    def shift(name: str, conv: nn.Conv2d, y: Tensor) -> Tensor:
        change = dense_means[name] - y.mean((0, 2, 3))
        bias = change if conv.bias is None else conv.bias + change
        conv.bias = nn.Parameter(bias, requires_grad=False)
        return y + change.view(1, -1, 1, 1)

    handles = [
        module.register_forward_hook(lambda conv, _, y, name=name: shift(name, conv, y))
        for name, module in net.named_modules()
        if name in dense_means and isinstance(module, nn.Conv2d)
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
