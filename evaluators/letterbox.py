"""Square letterbox, pixel for pixel as ultralytics' val with `rect=False`.

The longer side becomes `imgsz`, the shorter one is rounded *up* (`BaseDataset.load_image`), the
rest is filled with grey 114, half on each side (`LetterBox`). Shapes: H W image pixels, S = imgsz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

GREY = 114


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image of `height` x `width` pixels lies in its square.

    Attributes:
        height: Of the original image in pixels.
        width: Of the original image in pixels.
        resized_height: Inside the square.
        resized_width: Inside the square.
        top: Grey rows above.
        left: Grey columns on the left.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    top: int
    left: int


def place(height: int, width: int, imgsz: int) -> Placement:
    """Compute where an image lies in a square of `imgsz` pixels."""
    ratio = imgsz / max(height, width)
    resized_height = min(math.ceil(height * ratio), imgsz)
    resized_width = min(math.ceil(width * ratio), imgsz)
    return Placement(
        height,
        width,
        resized_height,
        resized_width,
        top=round((imgsz - resized_height) / 2 - 0.1),
        left=round((imgsz - resized_width) / 2 - 0.1),
    )


def letterbox(image_HW3: NDArray[np.uint8], imgsz: int) -> NDArray[np.uint8]:
    """Resize and pad an image.

    Args:
        image_HW3: Pixels of any channel order.
        imgsz: Side of the square in pixels.

    Returns:
        [S, S, 3], the channel order unchanged.
    """
    at = place(image_HW3.shape[0], image_HW3.shape[1], imgsz)
    if image_HW3.shape[:2] != (at.resized_height, at.resized_width):
        size = (at.resized_width, at.resized_height)
        image_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_LINEAR)
    square = np.full((imgsz, imgsz, 3), GREY, dtype=np.uint8)
    square[at.top : at.top + at.resized_height, at.left : at.left + at.resized_width] = image_HW3
    return square


def to_image(boxes_N4: NDArray[np.float32], at: Placement) -> NDArray[np.float32]:
    """Map boxes from the square back to the image.

    They are not clipped to it: ultralytics' val matches them as they are, and clipping alone moves
    mAP50-95 by up to .015 where objects are cut off by the border.

    Args:
        boxes_N4: x1 y1 x2 y2 in pixels of the square.
        at: Where the image lies in it.

    Returns:
        [N, 4] x1 y1 x2 y2 in pixels of the original image.
    """
    offset = np.array([at.left, at.top] * 2, dtype=np.float32)
    ratio = (at.resized_width / at.width, at.resized_height / at.height)
    scale = np.array(ratio * 2, dtype=np.float32)
    return np.asarray((boxes_N4 - offset) / scale, dtype=np.float32)
