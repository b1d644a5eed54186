from __future__ import annotations

import copy

import torch

from evaluators.dataset import Dataset
from evaluators.dense import as_input
from evaluators.training.gap import GlobalReconstruction
from evaluators.training.trainer import Plan, Training
from spaces.candidate import Candidate
from spaces.compress import kept_channels
from spaces.groups import analyse
from spaces.model import Detector
from spaces.saliency import rank
from tests.evaluators.training.conftest import SIZE


def kept_of(teacher: Detector, student: Detector) -> dict[str, torch.Tensor]:
    """Return the output channels that the student's convolutions have."""
    network = analyse(teacher, SIZE)
    counts = tuple((group.name, max(1, group.size * 3 // 4)) for group in network.groups)
    ranking = rank(teacher, network, "l2", torch.zeros(1, 3, SIZE, SIZE))
    kept = kept_channels(network, Candidate(SIZE, kept=counts), ranking)
    writes = dict(zip([step.name for step in network.steps], network.writes, strict=True))
    return {
        name: torch.from_numpy(kept[writes[name]]).nonzero().flatten()
        for name, module in student.net.named_modules()
        if isinstance(module, torch.nn.Conv2d) and name in writes
    }


def test_layers_come_closer_to_the_dense_ones_without_labels(
    teacher: Detector, student: Detector, images: Dataset
) -> None:
    kept = kept_of(teacher, student)
    method = GlobalReconstruction(teacher.net, kept)
    plan = Plan(
        3, 3e-4, distillation=0.0, labels=0.0, batch=8, mosaic_until=0.0, norms_frozen_from=0.0
    )
    training = Training(student, teacher, images, plan, [method])
    reports = [training.run_epoch() for _ in range(3)]
    assert set(reports[0].parts) == {"penalty"}
    trained = training.result().detector

    def error(detector: Detector) -> float:
        net = copy.deepcopy(detector.net)
        ours = GlobalReconstruction(teacher.net, kept)
        ours.install(net)
        with torch.no_grad():
            net(as_input(images.squares(SIZE)))
            return float(ours.penalty(net, 0.0))

    assert error(trained) < 0.9 * error(student)
    assert not trained.net._forward_pre_hooks
    means = [d.net.state_dict()["model.1.bn.running_mean"] for d in (trained, student)]
    assert torch.equal(*means)  # statistics stay those of the dense model
