"""What is known about a fully scored candidate beyond its mAP: kept for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from evaluators.dataset import Dataset
from evaluators.detection import Accuracy
from evaluators.letterbox import place, to_image

EXAMPLE_IMAGES = 6  # the first ones of the order of all rungs: nobody chose them by result
SEEN_SCORE = 0.25  # what ultralytics draws
SEEN_MOST = 60

Box = tuple[float, float, float, float, float, int]
"""x1 y1 x2 y2 as fractions of the picture, score, class."""


@dataclass(frozen=True, slots=True)
class Details:
    """What lies behind one mAP50-95.

    Attributes:
        small: mAP50-95 of objects below 32² pixels; None where the data has none.
        medium: The same from 32² to 96².
        large: The same above 96².
        per_class: (name, its average precision) of the classes that occur.
        seen: For each of the first `EXAMPLE_IMAGES` images, its detections above `SEEN_SCORE`.
    """

    small: float | None
    medium: float | None
    large: float | None
    per_class: tuple[tuple[str, float], ...]
    seen: tuple[tuple[Box, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Details:
        """Build from `to_dict`'s value, also after JSON.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return cls(**{name: _frozen(value) for name, value in fields.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


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
