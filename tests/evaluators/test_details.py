from __future__ import annotations

import json

import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.demo import demo_dataset
from evaluators.details import details_of
from evaluators.detection import score_detections
from evaluators.score import Details, Score
from tests.evaluators.test_detection import found

IMGSZ = 320


def true_boxes(data: Dataset, score: float = 0.9) -> list[torch.Tensor]:
    """Detections that are the truth, as [K, 6] in input pixels: the demo's images are square."""
    rows: dict[int, list[list[float]]] = {image_id: [] for image_id in data.image_ids}
    for a in data.annotations:
        x, y, width, height = a.box_xywh
        rows[a.image_id].append([x, y, x + width, y + height, score, a.class_index])
    scale = IMGSZ / data.sizes[0][0]
    tables = [torch.tensor(rows[i]).reshape(-1, 6) for i in data.image_ids]
    return [table * torch.tensor([scale] * 4 + [1.0, 1.0]) for table in tables]


def test_details_travel_in_a_score() -> None:
    data = demo_dataset("val", 3)
    detections = true_boxes(data)
    accuracy = score_detections(detections, data, IMGSZ, by_area=True)
    details = details_of(accuracy, detections, data, IMGSZ)
    score = Score(1.0, 1.0, 0.0, 1.0, 3, "full", details=details)
    again = Score.from_dict(json.loads(json.dumps(score.to_dict())))
    assert again == score
    assert isinstance(again.details, Details)
    first = details.seen[0][0]
    x, y, width, height = next(
        a.box_xywh for a in data.annotations if a.image_id == data.image_ids[0]
    )
    size = data.sizes[0][0]
    expected = (x / size, y / size, (x + width) / size, (y + height) / size)
    assert first[:4] == pytest.approx(expected, abs=1e-3)


def test_a_score_without_details_has_no_key_for_them() -> None:
    assert "details" not in Score(0.5, 0.7, 0.0, 1.0, 3, "subset").to_dict()


def test_nothing_found() -> None:
    data = demo_dataset("val", 1)
    accuracy = score_detections([found()], data, IMGSZ, by_area=True)
    assert details_of(accuracy, [found()], data, IMGSZ).seen == ((),)
