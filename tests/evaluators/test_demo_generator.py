"""The demo data set: the same everywhere, honest boxes, no end."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from evaluators.demo import generator
from evaluators.demo.generator import IMAGE_SIZE, NAMES, SPLITS, render

# Of the images the committed weights were trained on: a change means new weights, new figures.
DIGEST = "41f125027877756084ff015cf25cdb621d63ab0193327faf3b419d2a80986698"


def test_pixels_classes_and_boxes_are_those_of_the_training_run() -> None:
    sha = hashlib.sha256()
    for split in ("train", "val", "test"):
        for index in (0, 1, 2, 50, 999):
            for part in render(split, index):
                sha.update(part.tobytes())
    assert sha.hexdigest() == DIGEST


def test_an_image_does_not_depend_on_what_was_rendered_before() -> None:
    first = render("val", 7)
    render("train", 3)
    for before, after in zip(first, render("val", 7), strict=True):
        np.testing.assert_array_equal(before, after)


def test_no_image_occurs_twice_within_or_across_splits() -> None:
    images = [render(split, index)[0] for split in SPLITS for index in range(40)]
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == len(images)


@pytest.mark.parametrize("index", [0, 1_000_000, 2**40])
def test_there_is_no_last_image(index: int) -> None:
    image, classes, boxes = render("train", index)
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert image.dtype == np.uint8
    assert len(classes) == len(boxes) > 0


@pytest.mark.parametrize("index", range(30))
def test_boxes_lie_in_the_image_and_are_not_empty(index: int) -> None:
    _, classes, boxes = render("test", index)
    assert boxes.shape == (len(classes), 4)
    assert boxes.min() >= 0
    assert boxes.max() <= IMAGE_SIZE
    assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()
    assert set(classes.tolist()) <= set(range(len(NAMES)))


def test_a_box_is_the_extent_of_what_its_object_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_NOISE", 0)
    for index in range(12):
        monkeypatch.setattr(generator, "_OBJECTS", (0, 1))  # none
        bare, _, _ = render("val", index)
        monkeypatch.setattr(generator, "_OBJECTS", (1, 2))  # one
        image, _, boxes = render("val", index)
        rows, columns = np.nonzero((image != bare).any(axis=2))
        changed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # The antialiased rim reaches up to two pixels beyond those that are at least half covered.
        np.testing.assert_allclose([changed] * len(boxes), boxes, atol=2)


def test_a_box_encloses_only_what_other_objects_leave_visible() -> None:
    owner = np.full((6, 8), -1, np.int16)
    owner[1:4, 2:7] = 0
    owner[1:4, 4:8] = 1  # covers the right part of object 0
    np.testing.assert_array_equal(generator._visible_boxes(owner, 2), [[2, 1, 4, 4], [4, 1, 8, 4]])


def test_classes_are_balanced_and_sizes_span_small_to_large() -> None:
    rendered = [render("train", index) for index in range(300)]
    counts = np.bincount(np.concatenate([classes for _, classes, _ in rendered]))
    assert len(counts) == len(NAMES) >= 8
    assert counts.min() > 0.75 * counts.mean()
    boxes = np.concatenate([boxes for _, _, boxes in rendered])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert 0.15 < np.mean(area < 32**2) < 0.5  # COCO's small
    assert np.mean(area > 96**2) > 0.05  # COCO's large


@pytest.mark.parametrize(("split", "index"), [("training", 0), ("val", -1)])
def test_an_unknown_split_or_a_negative_index_is_refused(split: str, index: int) -> None:
    with pytest.raises(ValueError, match=r"expected a split of \['test', 'train', 'val'\]"):
        render(split, index)
