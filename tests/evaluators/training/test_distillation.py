from __future__ import annotations

import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.dense import as_input
from evaluators.training.distillation import Distillation
from evaluators.training.objective import UObjective, bernoulli_divergence
from evaluators.training.trainer import Plan, Training
from spaces.model import Detector


def test_the_divergence_is_that_of_the_textbook() -> None:
    p, q = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.9])
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert torch.allclose(bernoulli_divergence(q.logit(), p.logit()), by_hand, atol=1e-6)
    extreme = bernoulli_divergence(torch.tensor([90.0, -90.0]), torch.tensor([-90.0, -90.0]))
    assert extreme.tolist() == pytest.approx([90.0, 0.0])


def test_a_model_is_at_no_distance_from_itself(teacher: Detector, images: Dataset) -> None:
    objective = UObjective(teacher.net)
    raw = objective.raw(teacher.net, as_input(images.squares(teacher.imgsz, slice(0, 2))))
    assert float(objective.imitation(raw, raw)) == pytest.approx(0.0, abs=1e-6)
    sure = objective.seen(raw)
    assert [x.shape[2:] for x in sure] == [x.shape[2:] for x in raw.maps]
    assert 0 <= min(float(x.min()) for x in sure) <= max(float(x.max()) for x in sure) <= 1


def test_adapters_that_copy_leave_no_distance_between_features(
    teacher: Detector, images: Dataset
) -> None:
    objective = UObjective(teacher.net)
    raw = objective.raw(teacher.net, as_input(images.squares(teacher.imgsz, slice(0, 2))))
    channels = [x.shape[1] for x in raw.maps]
    distance = Distillation(objective, channels, channels)
    blind = float(distance(raw, raw).detach())
    for adapter, count in zip(distance.adapters, channels, strict=True):
        assert isinstance(adapter, torch.nn.Conv2d)
        assert adapter.bias is not None
        adapter.weight.data.copy_(torch.eye(count).view(count, count, 1, 1))
        adapter.bias.data.zero_()
    assert float(distance(raw, raw).detach()) == pytest.approx(0.0, abs=1e-6)
    assert blind > 0.1


def test_it_learns_from_the_dense_model_alone(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    plan = Plan(4, 2e-3, labels=0.0, batch=8)
    training = Training(student, teacher, images, plan)
    reports = [training.run_epoch() for _ in range(4)]
    assert reports[-1].parts["distillation"] < 0.8 * reports[0].parts["distillation"]
    assert "box_loss" not in reports[0].parts
