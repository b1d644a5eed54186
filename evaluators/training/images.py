"""Training images: a `Dataset` under ultralytics' augmentations, in batches.

Mosaic, random perspective, colour jitter and flips are ultralytics' own (`v8_transforms` with its
default gains). All randomness of a pass comes from its seed, so that a pass that was interrupted is
the same when it is repeated. Letters: B images of a batch, S their side, K objects in them.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from ultralytics.cfg import DEFAULT_CFG
from ultralytics.data.augment import Format, v8_transforms
from ultralytics.utils.instance import Instances

from evaluators.dataset import Dataset, decode
from evaluators.letterbox import place

CACHED_BYTES = 1 << 30  # of decoded images, a training process

Batch = dict[str, Tensor]
"""`img` [B, 3, S, S] in 0..1 and of the K objects `batch_idx` [K], `cls` [K, 1], `bboxes` [K, 4]
(centre and size as shares of the image)."""


class TrainingImages:
    """What ultralytics' augmentations draw from.

    Args:
        data: Images and truth; crowds are left out, as ultralytics does.
        imgsz: Side S of the augmented images in pixels.
    """

    # Read by v8_transforms and Mosaic; "ram" = mosaics are drawn from all images.
    cache = "ram"
    data: dict[str, Any]

    def __init__(self, data: Dataset, imgsz: int) -> None:
        self.data = {}
        self._dataset = data
        self._imgsz = imgsz
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._decoded_bytes = 0
        self._rows = _rows_by_image(data)
        self._transforms = {mosaic: self._build(mosaic) for mosaic in (True, False)}

    def __len__(self) -> int:
        return len(self._dataset)

    def _build(self, mosaic: bool) -> Any:
        gains = copy.copy(DEFAULT_CFG)
        gains.mosaic = float(mosaic)
        transforms = v8_transforms(self, self._imgsz, gains)
        transforms.append(Format(bbox_format="xywh", normalize=True, batch_idx=True))
        return transforms

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return one image and its objects in ultralytics' form (also called by Mosaic)."""
        image = self._image(index)
        classes, boxes = self._rows[self._dataset.image_ids[index]]
        height, width = self._dataset.sizes[index]
        return {
            "im_file": str(index),
            "img": image,
            "ori_shape": (height, width),
            "resized_shape": image.shape[:2],
            "ratio_pad": (image.shape[0] / height, image.shape[1] / width),
            "cls": classes.copy(),
            "instances": Instances(
                boxes.copy(), np.zeros((0, 1000, 2), np.float32), bbox_format="xywh"
            ),
        }

    def _image(self, index: int) -> NDArray[np.uint8]:
        """Return an image in BGR, its longer side S pixels."""
        if index in self._decoded:
            return self._decoded[index]
        image = decode(self._dataset.images[index])
        at = place(image.shape[0], image.shape[1], self._imgsz)
        size = (at.resized_width, at.resized_height)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        if self._decoded_bytes + image.nbytes <= CACHED_BYTES:
            self._decoded[index] = image
            self._decoded_bytes += image.nbytes
        return image

    def batches(self, size: int, seed: tuple[int, ...], mosaic: bool) -> Iterator[Batch]:
        """Yield one pass over the images in random order; a last partial batch is left out.

        Args:
            size: Images B of a batch; all images where there are fewer.
            seed: Decides the order and all augmentations of the pass.
            mosaic: Whether four images are put together to one, as in most of a training.
        """
        state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        order = np.random.default_rng(state).permutation(len(self))
        random.seed(state)  # the augmentations draw from the global generators
        np.random.seed(state)  # noqa: NPY002
        size = min(size, len(self))
        for start in range(0, len(self) - size + 1, size):
            samples = [
                self._transforms[mosaic](self.get_image_and_label(int(index)))
                for index in order[start : start + size]
            ]
            yield _collate(samples)


def _rows_by_image(data: Dataset) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return classes [n, 1] and boxes [n, 4] (centre, size, as shares) by image id."""
    sizes = dict(zip(data.image_ids, data.sizes, strict=True))
    classes, boxes = defaultdict(list), defaultdict(list)
    for a in data.annotations:
        height, width = sizes[a.image_id]
        left, top, w, h = a.box_xywh
        if a.crowd or w <= 0 or h <= 0:
            continue
        row = ((left + w / 2) / width, (top + h / 2) / height, w / width, h / height)
        classes[a.image_id].append((float(a.class_index),))
        boxes[a.image_id].append(row)
    return {
        image_id: (
            np.array(classes[image_id], np.float32).reshape(-1, 1),
            np.array(boxes[image_id], np.float32).reshape(-1, 4),
        )
        for image_id in data.image_ids
    }


def _collate(samples: list[dict[str, Any]]) -> Batch:
    counts = torch.tensor([len(sample["cls"]) for sample in samples])
    return {
        "img": torch.stack([sample["img"] for sample in samples]).float() / 255,
        "batch_idx": torch.arange(len(samples)).repeat_interleave(counts).float(),
        "cls": torch.cat([sample["cls"].view(-1, 1) for sample in samples]).float(),
        "bboxes": torch.cat([sample["bboxes"].view(-1, 4) for sample in samples]).float(),
    }
