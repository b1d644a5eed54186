"""What a search is given when it is told nothing: the demo detector and data set."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import safetensors
import torch

from evaluators.dataset import decode
from evaluators.demo import WEIGHTS, demo_dataset, demo_detector
from evaluators.demo.generator import IMAGE_SIZE, NAMES, render
from evaluators.demo.measure import measure

README = WEIGHTS.with_name("README.md").read_text(encoding="utf-8")


def test_dataset_holds_exactly_what_was_rendered() -> None:
    data = demo_dataset("val", 3)
    assert data.names == NAMES
    assert len(data) == 3
    for index, encoded in enumerate(data.images):
        image, classes, boxes = render("val", index)
        np.testing.assert_array_equal(decode(encoded)[:, :, ::-1], image)
        found = [a for a in data.annotations if a.image_id == index]
        assert [a.class_index for a in found] == classes.tolist()
        for annotation, (left, top, right, bottom) in zip(found, boxes, strict=True):
            assert annotation.box_xywh == (left, top, right - left, bottom - top)
            assert annotation.area == (right - left) * (bottom - top)


def test_a_longer_dataset_begins_with_the_shorter_one() -> None:
    assert demo_dataset("test", 5).images[:2] == demo_dataset("test", 2).images
    assert demo_dataset("test", 2).digest != demo_dataset("val", 2).digest


@pytest.mark.parametrize(("split", "count"), [("val", 0), ("all", 1)])
def test_an_empty_dataset_or_an_unknown_split_is_refused(split: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"at least one|expected a split"):
        demo_dataset(split, count)


def test_weights_are_small_and_say_how_they_were_made() -> None:
    assert WEIGHTS.stat().st_size <= 6_000_000
    with safetensors.safe_open(WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["names"]) == list(NAMES)
    assert json.loads(metadata["yaml"])["nc"] == len(NAMES)
    assert json.loads(metadata["provenance"])["images_seen"] > 0


def test_detector_maps_images_to_boxes_and_class_scores() -> None:
    detector = demo_detector()
    assert detector.names == NAMES
    assert detector.imgsz == IMAGE_SIZE
    with torch.inference_mode():
        output = detector.net(demo_dataset("val", 2).squares(IMAGE_SIZE).float() / 255)
    assert output.shape == (2, 4 + len(NAMES), 40**2 + 20**2 + 10**2)
    assert 0 <= output[:, 4:].min() <= output[:, 4:].max() <= 1


@pytest.mark.slow
def test_committed_weights_are_as_good_as_the_readme_says() -> None:
    claimed = float(re.search(r"mAP50-95 \| \*\*(0\.\d+)\*\*", README)[1])
    assert 0.55 < claimed < 0.85
    found = measure(demo_detector().net, demo_dataset("test", 100))
    assert found.map50_95 == pytest.approx(claimed, abs=0.04)
