from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluators.annotations import Annotation
from evaluators.dataset import Dataset
from evaluators.training.images import TrainingImages
from tests.evaluators.conftest import NAMES, encoded, painted


def test_a_batch_has_the_form_the_loss_reads(images: Dataset) -> None:
    batches = list(TrainingImages(images, 96).batches(10, (0, 0), mosaic=True))
    assert len(batches) == 2  # 24 images; the last 4 are left out
    for batch in batches:
        assert batch["img"].shape == (10, 3, 96, 96)
        assert 0 <= batch["img"].min() < batch["img"].max() <= 1
        objects = len(batch["cls"])
        assert batch["bboxes"].shape == (objects, 4)
        assert batch["batch_idx"].shape == (objects,)
        assert set(batch["batch_idx"].tolist()) <= set(range(10))
        assert 0 <= batch["bboxes"].min() <= batch["bboxes"].max() <= 1


def test_a_pass_is_a_function_of_its_seed(images: Dataset) -> None:
    def first(seed: tuple[int, ...]) -> torch.Tensor:
        return next(iter(TrainingImages(images, 64).batches(4, seed, mosaic=True)))["img"]

    assert torch.equal(first((1, 2)), first((1, 2)))
    assert not torch.equal(first((1, 2)), first((1, 3)))


def test_boxes_stay_on_their_objects() -> None:
    """A bright square on a dark noisy picture lies in its box, whatever the augmentation did."""
    truth = (Annotation(0, 0, (20.0, 10.0, 20.0, 20.0), 400.0),)
    data = Dataset(NAMES, (encoded(painted(0)),), (0,), ((60, 80),), truth)
    checked = 0
    for seed in range(8):
        batch = next(iter(TrainingImages(data, 160).batches(1, (seed,), mosaic=False)))
        bright = (batch["img"][0].amax(0) > 0.6).numpy()
        if len(batch["bboxes"]) == 0 or not bright.any():
            continue  # moved out of the picture
        rows, columns = np.nonzero(bright)
        x, y, width, height = (batch["bboxes"][0] * 160).tolist()
        inside = (abs(columns - x) <= width / 2 + 2) & (abs(rows - y) <= height / 2 + 2)
        assert inside.mean() > 0.95
        checked += 1
    assert checked >= 4


def test_crowds_and_empty_boxes_are_left_out() -> None:
    truth = (
        Annotation(0, 0, (20.0, 10.0, 20.0, 20.0), 400.0),
        Annotation(0, 1, (0.0, 0.0, 60.0, 40.0), 2400.0, crowd=True),
        Annotation(0, 1, (5.0, 5.0, 0.0, 4.0), 0.0),
    )
    data = Dataset(NAMES, (encoded(painted(0)),), (0,), ((60, 80),), truth)
    label = TrainingImages(data, 64).get_image_and_label(0)
    assert label["cls"].tolist() == [[0.0]]


def test_images_without_objects_train_as_background() -> None:
    truth = (Annotation(0, 0, (20.0, 10.0, 20.0, 20.0), 400.0),)
    contents = (encoded(painted(0)), encoded(painted(1)))
    data = Dataset(NAMES, contents, (0, 1), ((60, 80), (60, 80)), truth)
    batch = next(iter(TrainingImages(data, 64).batches(2, (0,), mosaic=False)))
    assert batch["img"].shape == (2, 3, 64, 64)
    assert len(batch["cls"]) <= 1


@pytest.mark.parametrize("size", [2, 100])
def test_a_small_set_makes_one_batch(size: int) -> None:
    truth = (Annotation(0, 0, (20.0, 10.0, 20.0, 20.0), 400.0),)
    data = Dataset(NAMES, (encoded(painted(0)),), (0,), ((60, 80),), truth)
    assert len(list(TrainingImages(data, 64).batches(size, (0,), mosaic=True))) == 1
