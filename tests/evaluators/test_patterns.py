"""Patterns put into networks: what they keep, and what the rest makes up for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.demo import demo_dataset, demo_detector
from evaluators.dense import as_input
from evaluators.detection import detect
from evaluators.distortion import distortion, reference
from evaluators.influence import measure_outputs
from evaluators.patterns import apply_patterns
from evaluators.reconstruct import reconstruct
from evaluators.refit import Inputs, measure_inputs
from hw_models.errors import InputError
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.sparsity.sparsify import patterns_of

IMGSZ = 160
PATTERNS = {"model.2.cv1.conv": "3ep", "model.3.conv": "2ep", "model.4.cv3.conv": "2:4"}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return demo_detector()


@pytest.fixture(scope="module")
def network(detector: Detector) -> Network:
    return analyse(detector, IMGSZ)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return as_input(demo_dataset("train", 8).squares(IMGSZ))


@pytest.fixture(scope="module")
def inputs(detector: Detector, network: Network, images: Tensor) -> dict[str, Inputs]:
    return measure_inputs(detector.net, network, images)


def everything(network: Network) -> np.ndarray:
    return np.ones(int(network.sizes.sum()) + 1, dtype=np.bool_)


def weight(detector: Detector, name: str) -> Tensor:
    return detector.net.get_submodule(name).weight.detach()


@torch.inference_mode()
def harm(net: torch.nn.Module, dense: Detector, images: Tensor) -> float:
    output = dense.net(images)
    return distortion(net(images), reference(output, detect(output)))


def test_named_layers_have_their_pattern_and_others_stay(
    detector: Detector, network: Network, inputs: dict[str, Inputs]
) -> None:
    sparse = copy.deepcopy(detector)
    apply_patterns(sparse.net, network, everything(network), PATTERNS, inputs)
    chosen = patterns_of(detector.net, network, PATTERNS)
    for layer in network.layers:
        now, before = weight(sparse, layer.name), weight(detector, layer.name)
        if layer.name not in PATTERNS:
            assert torch.equal(now, before)
            continue
        mask = chosen[layer.name].mask(now**2)
        assert torch.equal(now, now * mask)
        assert float(mask.float().mean()) < 0.51


def test_what_is_left_makes_up_for_what_was_removed(
    detector: Detector, network: Network, images: Tensor, inputs: dict[str, Inputs]
) -> None:
    cut, fitted, in_turn = (copy.deepcopy(detector.net) for _ in range(3))
    apply_patterns(cut, network, everything(network), PATTERNS, {})
    apply_patterns(fitted, network, everything(network), PATTERNS, inputs)
    outputs = measure_outputs(detector.net, network, images)
    reconstruct(in_turn, outputs, network, everything(network), {}, patterns=PATTERNS)
    harms = [harm(net, detector, images) for net in (cut, fitted, in_turn)]
    assert harms[1] < 0.7 * harms[0]
    assert harms[2] < harms[1]
    for name in PATTERNS:
        assert (in_turn.get_submodule(name).weight == 0).float().mean() > 0.49


def test_patterns_survive_few_bits(detector: Detector, network: Network, images: Tensor) -> None:
    net = copy.deepcopy(detector.net)
    outputs = measure_outputs(detector.net, network, images)
    bits = {"model.3.conv": (4, 16)}
    reconstruct(net, outputs, network, everything(network), bits, patterns=PATTERNS)
    kept = net.get_submodule("model.3.conv").weight
    assert (kept != 0).float().mean() <= 2 / 9
    assert len(kept[0].unique()) <= 15


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"model.0.conv": "2ep"}, "does not fit layer model.0.conv.*6x6"),
        ({"model.1.conv": "stripes"}, "Unknown sparsity pattern"),
        ({"nowhere": "2ep"}, "Unknown layer 'nowhere'"),
    ],
)
def test_impossible_patterns_are_refused(
    detector: Detector, network: Network, patterns: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        apply_patterns(copy.deepcopy(detector.net), network, everything(network), patterns, {})
