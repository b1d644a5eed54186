"""Detectors for the tests of spaces: alive, but not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector


def enliven(net: nn.Module, seed: int = 0) -> None:
    """Give batch norms random scales and shifts, and the statistics that go with them.

    An untrained network's signal fades away; with this, every channel counts in the output.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.uniform_(-0.5, 1.0, generator=generator)
        norm.momentum = 1.0  # take the statistics of the one batch below
    with torch.no_grad():
        net.train()(torch.rand(2, 3, 128, 128, generator=generator))
    net.eval()


@pytest.fixture(scope="session")
def u_detector() -> Detector:
    """YOLOv5n, u-model, with random batch norms. Not to be changed."""
    detector = load_detector("yolov5n.yaml")
    enliven(detector.net)
    return detector


@pytest.fixture(scope="session")
def u_network(u_detector: Detector) -> Network:
    return analyse(u_detector, 320)


@pytest.fixture(scope="session")
def classic_detector(shared: Path) -> Detector:
    """The trained classic YOLOv5n. Not to be changed."""
    return load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")


@pytest.fixture(scope="session")
def classic_network(classic_detector: Detector) -> Network:
    return analyse(classic_detector, 320)


@pytest.fixture(scope="session", params=["u", "classic"])
def model(request: pytest.FixtureRequest) -> tuple[Detector, Network]:
    """Each kind of detector with its network."""
    return (
        request.getfixturevalue(f"{request.param}_detector"),
        request.getfixturevalue(f"{request.param}_network"),
    )
