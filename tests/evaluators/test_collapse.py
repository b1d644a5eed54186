from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from evaluators.collapse import Collapse, find_collapse
from evaluators.demo import demo_dataset, demo_detector
from spaces.candidate import Candidate
from spaces.compress import compress, kept_channels
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.saliency import rank

SIZE = 160


@pytest.fixture(scope="module")
def parts() -> tuple[Detector, Network, torch.Tensor]:
    detector = demo_detector()
    images = demo_dataset("train", 4).squares(SIZE).float() / 255
    return detector, analyse(detector, SIZE), images


def slim(network: Network, keep: float) -> Candidate:
    return Candidate(SIZE, tuple((g.name, max(1, int(g.size * keep))) for g in network.groups))


def test_the_dense_network_is_alive(parts: tuple[Detector, Network, torch.Tensor]) -> None:
    detector, network, images = parts
    kept = np.ones(int(network.sizes.sum()) + 1, dtype=np.bool_)
    assert find_collapse(detector.net, detector.net, network, kept, images) is None


@pytest.mark.parametrize("layer", ["model.3.conv", "model.6.m.0.cv2.conv", "model.13.cv3.conv"])
def test_a_layer_broken_on_purpose_is_named(
    parts: tuple[Detector, Network, torch.Tensor], layer: str
) -> None:
    """In a network that also lost some channels: kept ones are compared."""
    detector, network, images = parts
    candidate, ranking = slim(network, 0.97), rank(detector, network)
    kept = kept_channels(network, candidate, ranking)
    sliced = compress(detector, network, candidate, ranking).net
    assert find_collapse(sliced, detector.net, network, kept, images) is None
    broken = copy.deepcopy(sliced)
    broken.get_submodule(layer).weight.data *= -3.0
    found = find_collapse(broken, detector.net, network, kept, images)
    assert found is not None
    assert found.layer == layer
    assert found.confidence < 0.1
    assert found.error > 0.5
    assert f"the first broken layer is {layer}" in str(found)


def test_outputs_that_are_no_numbers_are_a_collapse(
    parts: tuple[Detector, Network, torch.Tensor],
) -> None:
    detector, network, images = parts
    kept = np.ones(int(network.sizes.sum()) + 1, dtype=np.bool_)
    net = copy.deepcopy(detector.net)
    net.get_submodule("model.5.conv").weight.data[0] = float("nan")
    found = find_collapse(net, detector.net, network, kept, images)
    assert found == Collapse(0.0, "model.5.conv", float("inf"))


def test_a_small_loss_everywhere_names_the_first_bad_layer(
    parts: tuple[Detector, Network, torch.Tensor],
) -> None:
    detector, network, images = parts
    candidate, ranking = slim(network, 0.3), rank(detector, network)
    kept = kept_channels(network, candidate, ranking)
    net = compress(detector, network, candidate, ranking).net
    found = find_collapse(net, detector.net, network, kept, images)
    assert found is not None
    assert found.layer in {layer.name for layer in network.layers}
