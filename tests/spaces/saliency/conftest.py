"""A small detector, so that every criterion can be asked often."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from torch import nn

from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector

SIZE = 64


def enliven(net: nn.Module) -> None:
    """Give batch norms random scales and shifts, and the statistics that go with them."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.uniform_(-0.5, 1.0, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(4, 3, 128, 128, generator=generator))
    net.eval()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A classic detector with 4 to 64 channels. Not to be changed."""
    nano = load_detector("yolov5n.yaml").net.yaml
    architecture = {key: copy.deepcopy(nano[key]) for key in ("nc", "backbone", "head")}
    architecture |= {"depth_multiple": 0.33, "width_multiple": 0.0625}
    architecture["anchors"] = [[10, 13, 16, 30, 33, 23]] * 3
    sources, repeats, _, _ = architecture["head"][-1]
    architecture["head"][-1] = [sources, repeats, "Detect", ["nc", "anchors"]]
    file = tmp_path_factory.mktemp("models") / "small.yaml"
    file.write_text(yaml.safe_dump(architecture))
    torch.manual_seed(0)
    detector = load_detector(file)
    enliven(detector.net)
    return detector


@pytest.fixture(scope="session")
def small_network(small: Detector) -> Network:
    return analyse(small, SIZE)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three pictures; not to be changed."""
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
