from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluators import bootstrap, detection
from evaluators.bootstrap import RESAMPLES, weighted_maps
from evaluators.dataset import Dataset
from evaluators.demo import demo_dataset
from evaluators.detection import score_detections


def sloppy(data: Dataset, seed: int, imgsz: int = 320) -> list[torch.Tensor]:
    """The truth, moved and rescored at random, some left out, some invented."""
    random = np.random.default_rng(seed)
    detections = []
    for image_id, (height, width) in zip(data.image_ids, data.sizes, strict=True):
        scale = imgsz / max(height, width)
        boxes = [a for a in data.annotations if a.image_id == image_id and random.random() < 0.8]
        rows = []
        for a in [*boxes, *boxes[: len(boxes) // 2]]:
            left, top, wide, high = np.array(a.box_xywh) + random.normal(0, 3, 4)
            label = (
                a.class_index if random.random() < 0.9 else int(random.integers(len(data.names)))
            )
            rows.append(
                [left, top, left + wide, top + high, random.random() / scale, label / scale]
            )
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6) * scale
        detections.append(table[table[:, 4].argsort(descending=True)])
    return detections


def matched(data: Dataset, seed: int = 0) -> tuple[detection.Accuracy, bootstrap.COCOeval]:
    seen: list[bootstrap.COCOeval] = []
    original = bootstrap.COCOeval.evaluate
    with pytest.MonkeyPatch.context() as patch:  # look at what is matched inside
        patch.setattr(
            bootstrap.COCOeval, "evaluate", lambda self: (original(self), seen.append(self))[0]
        )
        accuracy = score_detections(sloppy(data, seed), data, 320)
    return accuracy, seen[0]


def test_images_that_count_once_give_cocos_map() -> None:
    data = demo_dataset("val", 24)
    accuracy, evaluation = matched(data)
    assert 0.1 < accuracy.map50_95 < 0.9
    (once,) = weighted_maps(evaluation, np.ones((1, 24)))
    assert once == pytest.approx(accuracy.map50_95, abs=1e-9)
    (twice,) = weighted_maps(evaluation, np.full((1, 24), 2.0))
    assert twice == pytest.approx(once)


def test_images_that_do_not_count_might_as_well_not_be_there() -> None:
    data = demo_dataset("val", 24)
    _, evaluation = matched(data)
    fewer = data.subset(9)
    found = dict(zip(data.image_ids, sloppy(data, 0), strict=True))
    alone = score_detections([found[image_id] for image_id in fewer.image_ids], fewer, 320)
    counts = [float(image_id in fewer.image_ids) for image_id in evaluation.params.imgIds]
    assert weighted_maps(evaluation, np.array([counts]))[0] == pytest.approx(alone.map50_95)


def test_resamples_are_the_same_for_every_model() -> None:
    data = demo_dataset("val", 24)
    one, same, other = (matched(data, seed)[0] for seed in (0, 0, 1))
    assert one.resampled == same.resampled
    assert len(one.resampled) == RESAMPLES
    alone = np.std(one.resampled)
    together = np.std(np.subtract(one.resampled, other.resampled))
    assert 0 < together < 1.5 * alone
    assert np.mean(one.resampled) == pytest.approx(one.map50_95, abs=3 * alone)


def test_a_model_without_detections_has_nothing_to_resample(tiny: Dataset) -> None:
    nothing = score_detections([torch.zeros(0, 6), torch.zeros(0, 6)], tiny, 200)
    assert nothing.resampled == (0.0,) * RESAMPLES
