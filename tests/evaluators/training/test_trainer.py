from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.demo import demo_dataset
from evaluators.training.trainer import LAST_RATE, DivergedError, Plan, Training, rate
from evaluators.training.validate import Validation
from hw_models.errors import InputError
from spaces.model import Detector


def test_training_brings_accuracy_back(student: Detector, teacher: Detector) -> None:
    validation = Validation(demo_dataset("val", 24), student.imgsz)
    before = validation.measure(student.net).map50_95
    training = Training(student, teacher, demo_dataset("train", 64), Plan(5, 2e-3, batch=8))
    losses = [training.run_epoch().loss for _ in range(5)]
    after = validation.measure(training.result().detector.net).map50_95
    assert losses[-1] < losses[0]
    assert after > before + 0.03, (before, after)


def test_the_student_given_is_not_changed(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    digests = student.digest, teacher.digest
    training = Training(student, teacher, images, Plan(1, batch=8))
    training.run_epoch()
    assert (student.digest, teacher.digest) == digests
    assert training.result().detector.digest != student.digest


def test_the_result_is_for_inference_only(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    training = Training(student, teacher, images, Plan(1, batch=8))
    training.run_epoch()
    net = training.result().detector.net
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert net.state_dict().keys() == student.net.state_dict().keys()
    output = net(torch.zeros(1, 3, student.imgsz, student.imgsz))
    assert output.shape[1] == 4 + len(student.names)


def test_stopped_and_continued_it_ends_the_same(
    student: Detector, teacher: Detector, images: Dataset, tmp_path: Path
) -> None:
    plan = Plan(3, batch=8, seed=5)

    def begin() -> Training:
        return Training(student, teacher, images, plan)

    whole = begin()
    for _ in range(3):
        whole.run_epoch()
    first = begin()
    first.run_epoch()
    first.save(tmp_path / "a.ckpt")
    second = begin()
    second.load(tmp_path / "a.ckpt")
    assert second.epoch == 1
    second.run_epoch()
    second.run_epoch()
    assert second.result().detector.digest == whole.result().detector.digest


def test_a_checkpoint_of_something_else_is_refused(
    student: Detector, teacher: Detector, images: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    training = Training(teacher, teacher, images, Plan(1, batch=8))
    training.save(path)
    other = Training(student, teacher, images, Plan(1, batch=8))
    with pytest.raises(InputError, match="cannot be continued"):
        other.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be continued"):
        other.load(path)


def test_a_loss_that_is_not_finite_stops_it(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    training = Training(student, teacher, images, Plan(20, learning_rate=1e12, batch=8))

    def run() -> None:
        for _ in range(20):
            training.run_epoch()

    with pytest.raises(DivergedError, match="epoch"):
        run()


def test_without_distillation_no_teacher_is_asked(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    training = Training(student, teacher, images, Plan(1, distillation=0.0, batch=8))
    assert "distillation" not in training.run_epoch().parts


def test_the_rate_warms_up_and_falls() -> None:
    assert rate(0.0) == pytest.approx(LAST_RATE)
    assert rate(0.05) == pytest.approx(1.0)
    assert rate(1.0) == pytest.approx(LAST_RATE)
    falling = [rate(0.05 + 0.95 * x / 10) for x in range(11)]
    assert falling == sorted(falling, reverse=True)
