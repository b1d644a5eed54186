"""How strong a channel's activation is on images.

The mean of the feature map's square behind the activation, over calibration images. What `energy`
expects from the batch norm alone, this one measures. Which is better depends on the model: with an
eighth of every group's channels removed and the batch norms re-estimated, mAP50-95 at 320 px is
.481 against .219 on the demo (.786 dense), .432 against .461 on the blood cells (.506 dense).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from hw_models.errors import InputError

IMAGES_AT_ONCE = 8


def activation(net: nn.Module, images: Tensor | None) -> Callable[[Conv], Tensor]:
    """Measure all blocks of a network.

    Args:
        net: The dense network, in evaluation mode.
        images: [N, 3, H, W] in 0..1.

    Returns:
        A criterion: the mean square of each channel's activation [C] of a block of `net`.

    Raises:
        InputError: There are no images.
    """
    if images is None or not len(images):
        raise InputError(
            "The criterion activation measures on images; expected at least one, got none.",
            "Give calibration images, or use the criterion energy.",
        )
    energies: dict[nn.Module, Tensor] = {}

    def record(block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        total = output.double().square().sum((0, 2, 3)) / (output.shape[2] * output.shape[3])
        energies[block] = energies.get(block, 0) + total / len(images)

    blocks = [module for module in net.modules() if isinstance(module, Conv)]
    handles = [block.register_forward_hook(record) for block in blocks]
    try:
        with torch.inference_mode():
            for batch in images.split(IMAGES_AT_ONCE):
                net(batch)
    finally:
        for handle in handles:
            handle.remove()
    return energies.__getitem__
