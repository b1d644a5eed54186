"""mAP of a network that is being trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.dataset import Dataset
from evaluators.dense import BATCH, as_input
from evaluators.detection import Accuracy, detect, score_detections


class Validation:
    """Images that stay decoded, with their truth.

    Args:
        data: Images and truth.
        imgsz: Input size in pixels.
    """

    def __init__(self, data: Dataset, imgsz: int) -> None:
        self._data = data
        self._imgsz = imgsz
        self._squares = data.squares(imgsz)

    @torch.inference_mode()
    def measure(self, net: nn.Module) -> Accuracy:
        """Measure a network in eval mode, on the device it lies on.

        An output that is not finite counts as seeing nothing.
        """
        device = next(net.parameters()).device
        found: list[Tensor] = []
        for batch in self._squares.split(BATCH):
            output = net(as_input(batch.to(device)))
            found += [x.cpu() for x in detect(output.nan_to_num(0.0, 0.0, 0.0))]
        return score_detections(found, self._data, self._imgsz)
