"""What convolutions read, at some positions of their outputs.

Axis letters: N images, p positions of one image, P = N * p, I input channels, F features (input
channels times taps of the kernel, in the order of a weight's `flatten(1)`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def sample_positions(images: int, size: int, total: int) -> Tensor:
    """Choose positions of a map, others in each image but always the same ones.

    Args:
        images: N.
        size: Cells of the map.
        total: How many positions are wanted over all images.

    Returns:
        Row by row positions [N, p]; all of them where the map is small.
    """
    count = min(size, -(-total // images))
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randperm(size, generator=generator, device=generator.device)[:count]
        for _ in range(images)
    ]
    return torch.stack(rows).to(torch.get_default_device())


def patches(conv: nn.Conv2d, x_NIHW: Tensor, positions_Np: Tensor) -> Tensor:
    """Return what a convolution reads at positions of its output map, [P, F]."""
    (kernel_h, kernel_w), (stride_h, stride_w) = conv.kernel_size, conv.stride
    pad_h, pad_w = cast("tuple[int, int]", conv.padding)
    columns = (x_NIHW.shape[3] + 2 * pad_w - kernel_w) // stride_w + 1
    top_Np = positions_Np // columns * stride_h
    left_Np = positions_Np % columns * stride_w
    padded = pad(x_NIHW, (pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else x_NIHW
    image = torch.arange(len(x_NIHW)).view(-1, 1, 1, 1)
    row = top_Np[:, :, None, None] + torch.arange(kernel_h)[:, None]
    column = left_Np[:, :, None, None] + torch.arange(kernel_w)
    taps_NpkkI = padded.permute(0, 2, 3, 1)[image, row, column]
    return taps_NpkkI.permute(0, 1, 4, 2, 3).reshape(positions_Np.numel(), -1)
