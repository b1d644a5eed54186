"""The built-in default: a small data set drawn by a program, and a YOLOv5n trained on it.

Both need no download, so that a search runs from a fresh checkout.

generator   images and boxes as a pure function of (split, index)
train       how the committed weights were made
measure     how good they are
README.md   the measured figures
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2

from evaluators.annotations import Annotation
from evaluators.dataset import Dataset
from evaluators.demo.generator import IMAGE_SIZE, NAMES, render
from spaces.model import Detector, load_detector

WEIGHTS = Path(__file__).with_name("yolov5n_demo.safetensors")
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)  # fastest on noisy pixels


def demo_detector() -> Detector:
    """Load the committed YOLOv5n that was trained on the demo data set."""
    return load_detector(WEIGHTS)


@lru_cache(maxsize=2)  # the two that a search needs
def demo_dataset(split: str, count: int) -> Dataset:
    """Draw the first images of a split of the demo data set, encoded as PNG (lossless).

    Args:
        split: "train", "val" or "test".
        count: Number of images, at least 1; there is no upper end.

    Raises:
        ValueError: If the split is unknown or the count below 1.
    """
    images: list[bytes] = []
    annotations: list[Annotation] = []
    for index in range(count):
        image, classes, boxes = render(split, index)
        encoded = cv2.imencode(".png", image[:, :, ::-1], _PNG)[1]  # OpenCV writes BGR
        images.append(encoded.tobytes())
        for label, (left, top, right, bottom) in zip(classes.tolist(), boxes.tolist(), strict=True):
            box = (left, top, right - left, bottom - top)
            annotations.append(Annotation(index, label, box, area=box[2] * box[3]))
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return Dataset(NAMES, tuple(images), tuple(range(count)), (size,) * count, tuple(annotations))
