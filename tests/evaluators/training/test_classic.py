from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.dense import as_input
from evaluators.training.classic_objective import ClassicObjective, assign
from evaluators.training.trainer import Plan, Training
from spaces.architecture import build, read_yaml
from spaces.model import Detector
from tests.evaluators.training.conftest import SIZE

ANCHORS = [
    [10, 13, 16, 30, 33, 23],
    [30, 61, 62, 45, 59, 119],
    [116, 90, 156, 198, 373, 326],
]


@pytest.fixture(scope="module")
def classic(teacher: Detector) -> Detector:
    """An untrained classic YOLOv5n for the classes of the demo."""
    architecture = {**read_yaml(Path("yolov5n.yaml")), "nc": len(teacher.names), "anchors": ANCHORS}
    return Detector(build(architecture, "test"), teacher.names, SIZE)


def test_an_object_belongs_to_its_cell_and_the_two_nearest() -> None:
    batch = {
        "batch_idx": torch.tensor([1.0]),
        "cls": torch.tensor([[2.0]]),
        "bboxes": torch.tensor([[0.32, 0.58, 0.2, 0.1]]),  # centre 3.2, 5.8 of 10 x 10 cells
    }
    anchors = torch.tensor([[2.0, 1.0], [0.4, 1.0], [7.9, 3.9]])  # the second is 5 times too narrow
    found = assign(batch, anchors, (10, 10))
    places = set(zip(found.row.tolist(), found.column.tolist(), found.anchor.tolist(), strict=True))
    assert places == {(row, col, a) for row, col in ((5, 3), (5, 2), (6, 3)) for a in (0, 2)}
    assert set(found.image.tolist()) == {1}
    assert set(found.label.tolist()) == {2}
    corners = torch.stack((found.column, found.row), 1)
    assert torch.allclose(found.box[:, :2] + corners, torch.tensor([3.2, 5.8]), atol=1e-5)
    assert torch.allclose(found.box[:, 2:], torch.tensor([2.0, 1.0]), atol=1e-6)


def test_objects_at_the_border_stay_inside() -> None:
    batch = {
        "batch_idx": torch.zeros(2),
        "cls": torch.zeros(2, 1),
        "bboxes": torch.tensor([[0.0, 0.0, 0.1, 0.1], [1.0, 1.0, 0.1, 0.1]]),
    }
    found = assign(batch, torch.tensor([[1.0, 1.0]]), (10, 10))
    assert {*found.row.tolist(), *found.column.tolist()} == {0, 9}
    nothing = {key: value[:0] for key, value in batch.items()}
    assert len(assign(nothing, torch.tensor([[1.0, 1.0]]), (10, 10)).image) == 0


def test_a_model_is_at_no_distance_from_itself(classic: Detector, images: Dataset) -> None:
    objective = ClassicObjective(classic.net)
    raw = objective.raw(classic.net, as_input(images.squares(SIZE, slice(0, 2))))
    assert float(objective.imitation(raw, raw)) == pytest.approx(0.0, abs=1e-5)
    assert [x.shape[2:] for x in objective.seen(raw)] == [x.shape[2:] for x in raw.maps]


def test_a_classic_detector_is_trained(classic: Detector, images: Dataset) -> None:
    before = copy.deepcopy(classic.net.state_dict())
    training = Training(classic, classic, images, Plan(4, 2e-3, batch=8))
    reports = [training.run_epoch() for _ in range(4)]
    assert {"box_loss", "cls_loss", "obj_loss", "distillation"} <= reports[0].parts.keys()
    assert reports[-1].loss < 0.9 * reports[0].loss
    trained = training.result().detector
    assert trained.kind == "classic"
    assert trained.net(torch.zeros(1, 3, SIZE, SIZE)).isfinite().all()
    assert all(torch.equal(before[name], x) for name, x in classic.net.state_dict().items())
