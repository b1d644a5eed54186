"""Accuracy of a network on validation images, and how much of the dense network's it keeps."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.dataset import Dataset
from evaluators.dense import BATCH, as_input, for_inference
from evaluators.detection import Accuracy, detect, score_detections


@torch.inference_mode()
def measure(net: nn.Module, data: Dataset, squares: Tensor) -> Accuracy:
    """Score a network.

    Args:
        net: Not changed.
        data: Images with truth.
        squares: Those images, uint8 [N, 3, S, S].
    """
    net = for_inference(copy.deepcopy(net))
    found: list[Tensor] = []
    for batch in torch.split(squares, BATCH):
        found += detect(net(as_input(batch)))
    return score_detections(found, data, squares.shape[-1])


def retention(found: Accuracy, dense: Accuracy) -> tuple[float, float]:
    """Return the share of the dense mAP50-95 that is kept, and its standard error, both in %.

    The error is the luck of these images: the spread over resamples that are the same for both
    networks (`evaluators.bootstrap`).
    """
    shares = np.divide(found.resampled, dense.resampled)
    return 100 * found.map50_95 / dense.map50_95, 100 * float(np.std(shares, ddof=1))


def as_text(kept: tuple[float, float]) -> str:
    """Return a retention as tables show it."""
    return f"{kept[0]:.1f} ± {kept[1]:.1f}"
