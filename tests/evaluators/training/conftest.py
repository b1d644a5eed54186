"""A tiny training problem: the demo detector with half of some channels, at a small input size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.demo import demo_dataset, demo_detector
from spaces.candidate import Candidate
from spaces.compress import compress
from spaces.groups import analyse
from spaces.model import Detector
from spaces.saliency import rank

torch.set_num_threads(1)

SIZE = 128


@pytest.fixture(scope="session")
def teacher() -> Detector:
    return replace(demo_detector(), imgsz=SIZE)


@pytest.fixture(scope="session")
def student(teacher: Detector) -> Detector:
    """Three quarters of the channels of each group, really sliced, without any refit."""
    network = analyse(teacher, SIZE)
    kept = tuple((group.name, max(1, group.size * 3 // 4)) for group in network.groups)
    ranking = rank(teacher, network, "l2", torch.zeros(1, 3, SIZE, SIZE))
    return compress(teacher, network, Candidate(SIZE, kept=kept), ranking)


@pytest.fixture(scope="session")
def images() -> Dataset:
    return demo_dataset("train", 24)
