"""What is known about a fully scored candidate beyond its mAP: kept for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from evaluators.dataset import Dataset
from evaluators.detection import Accuracy
from evaluators.letterbox import place, to_image
from evaluators.score import Box, Details

EXAMPLE_IMAGES = 6  # the first ones of the order of all rungs: nobody chose them by result
SEEN_SCORE = 0.25  # what ultralytics draws
SEEN_MOST = 60


def details_of(
    accuracy: Accuracy,
    detections: Sequence[torch.Tensor],
    data: Dataset,
    imgsz: int,
) -> Details:
    """Collect the details of a score.

    Args:
        accuracy: On all of `data`.
        detections: For each image [K, 6] as `evaluators.detection.detect` returns them.
        data: The images.
        imgsz: Side of the square the boxes are in.
    """
    examples = zip(detections[:EXAMPLE_IMAGES], data.sizes, strict=False)
    return Details(
        small=_rounded(accuracy.small),
        medium=_rounded(accuracy.medium),
        large=_rounded(accuracy.large),
        per_class=tuple((name, round(value, 5)) for name, value in accuracy.per_class),
        seen=tuple(_seen(found, size, imgsz) for found, size in examples),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _seen(found: torch.Tensor, size: tuple[int, int], imgsz: int) -> tuple[Box, ...]:
    rows = found[found[:, 4] >= SEEN_SCORE][:SEEN_MOST].numpy(force=True)
    height, width = size
    boxes = to_image(rows[:, :4], place(height, width, imgsz)) / (width, height, width, height)
    table = np.concatenate([boxes, rows[:, 4:5]], axis=1).round(4).tolist()
    return tuple(
        (x1, y1, x2, y2, score, int(label))
        for (x1, y1, x2, y2, score), label in zip(table, rows[:, 5], strict=True)
    )
