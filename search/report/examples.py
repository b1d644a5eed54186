"""Images to look at, small enough for a page."""

from __future__ import annotations

import base64

import cv2

from evaluators.dataset import Dataset, decode
from evaluators.score import Box
from search.report.value import Example

LONGEST = 400  # pixels
QUALITY = 80


def examples_of(data: Dataset) -> tuple[Example, ...]:
    """Return all images of a (small) data set with their truth."""
    return tuple(
        _example(image, image_id, data)
        for image, image_id in zip(data.images, data.image_ids, strict=True)
    )


def _example(image: bytes, image_id: int, data: Dataset) -> Example:
    pixels = decode(image)
    height, width = pixels.shape[:2]
    ratio = min(1.0, LONGEST / max(height, width))
    small = cv2.resize(
        pixels, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_AREA
    )
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    truth: list[Box] = []
    for a in data.annotations:
        if a.image_id == image_id and not a.crowd:
            x, y, w, h = a.box_xywh
            corners = (x / width, y / height, (x + w) / width, (y + h) / height)
            x1, y1, x2, y2 = (round(value, 4) for value in corners)
            truth.append((x1, y1, x2, y2, 1.0, a.class_index))
    return Example(
        base64.b64encode(jpeg.tobytes()).decode(), small.shape[1], small.shape[0], tuple(truth)
    )
