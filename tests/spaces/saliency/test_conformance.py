"""What every criterion promises, whatever it measures."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hw_models.errors import InputError
from hw_models.workload import ConvShape
from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency import CRITERIA, ON_IMAGES, rank, score
from spaces.trace import IntArray

COUPLED = "model.6.cv1"  # shortcuts: several convolutions write it
PLAIN = "model.9.cv1"  # read four times by one convolution, after pooling


@pytest.fixture(scope="module", params=CRITERIA)
def criterion(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def scores(
    small: Detector, small_network: Network, criterion: str, images: Tensor
) -> dict[str, Tensor]:
    return score(small, small_network, criterion, images)


def convolutions(
    detector: Detector, network: Network
) -> list[tuple[nn.Conv2d, IntArray, IntArray]]:
    return [
        (detector.net.get_submodule(step.name), reads, writes)
        for step, reads, writes in zip(network.steps, network.reads, network.writes, strict=True)
        if isinstance(step, ConvShape)
    ]


def numbers_of(network: Network, name: str) -> IntArray:
    """Return the channel numbers of a group."""
    index = [group.name for group in network.groups].index(name)
    return network.offsets[index] + np.arange(network.groups[index].size)


def moved(channels: IntArray, numbers: IntArray, order: IntArray) -> IntArray:
    """Return which channel of a tensor comes to each place when a group is reordered."""
    places = np.arange(len(channels))
    for new, old in zip(numbers, numbers[order], strict=True):
        places[channels == new] = np.flatnonzero(channels == old)
    return places


def permuted(detector: Detector, network: Network, name: str, order: IntArray) -> Detector:
    """Return the same function with the channels of one group in another order."""
    result, numbers = copy.deepcopy(detector), numbers_of(network, name)
    for conv, reads, writes in convolutions(result, network):
        conv.weight.data = conv.weight.data[moved(writes, numbers, order)]
        conv.weight.data = conv.weight.data[:, moved(reads, numbers, order)]
    for norm_name, channels in network.norms.items():
        norm = result.net.get_submodule(norm_name)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data = tensor.data[moved(channels, numbers, order)]
    return result


def same(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp_min(1e-30)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-3)


class TestCriterion:
    def test_scores_every_channel_of_every_group(
        self, small_network: Network, scores: dict[str, Tensor]
    ) -> None:
        assert {name: len(found) for name, found in scores.items()} == {
            group.name: group.size for group in small_network.groups
        }
        assert all(found.isfinite().all() and (found >= 0).all() for found in scores.values())

    def test_is_deterministic_and_changes_nothing(
        self,
        small: Detector,
        small_network: Network,
        criterion: str,
        images: Tensor,
        scores: dict[str, Tensor],
    ) -> None:
        before = small.digest
        torch.manual_seed(1)
        again = score(small, small_network, criterion, images)
        assert all(torch.equal(again[name], found) for name, found in scores.items())
        assert small.digest == before
        assert not any(module._forward_hooks for module in small.net.modules())

    def test_scale_that_a_batch_norm_undoes_means_nothing(
        self,
        small: Detector,
        small_network: Network,
        criterion: str,
        images: Tensor,
        scores: dict[str, Tensor],
    ) -> None:
        """The scale of one of two members: neither the order nor their say may change."""
        scaled = copy.deepcopy(small)
        block = scaled.net.get_submodule(COUPLED)
        block.conv.weight.data *= 8
        block.bn.running_mean *= 8
        block.bn.running_var = 64 * (block.bn.running_var + block.bn.eps) - block.bn.eps
        found = score(scaled, small_network, criterion, images)
        for name in (COUPLED, PLAIN):
            same(found[name], scores[name])

    @pytest.mark.parametrize("name", [COUPLED, PLAIN])
    def test_follows_a_permutation(
        self,
        small: Detector,
        small_network: Network,
        criterion: str,
        images: Tensor,
        scores: dict[str, Tensor],
        name: str,
    ) -> None:
        order = np.random.default_rng(0).permutation(len(scores[name]))
        model = permuted(small, small_network, name, order)
        with torch.no_grad():
            torch.testing.assert_close(model.net(images), small.net(images), rtol=1e-3, atol=1e-3)
        same(score(model, small_network, criterion, images)[name], scores[name][order])

    @pytest.mark.parametrize("name", [COUPLED, PLAIN])
    def test_ranks_a_dead_channel_last(
        self, small: Detector, small_network: Network, criterion: str, images: Tensor, name: str
    ) -> None:
        model, dead = copy.deepcopy(small), 5
        number = numbers_of(small_network, name)[dead]
        for conv, _, writes in convolutions(model, small_network):
            conv.weight.data[writes == number] = 0.0
        for norm_name, channels in small_network.norms.items():
            norm = model.net.get_submodule(norm_name)
            norm.weight.data[channels == number] = 0.0
            norm.bias.data[channels == number] = 0.0
            norm.running_mean[channels == number] = 0.0
        order = rank(model, small_network, criterion, images)[name]
        assert order[-1] == dead
        assert np.array_equal(np.sort(order), np.arange(len(order)))


@pytest.mark.parametrize("criterion", ON_IMAGES)
def test_says_that_it_needs_images(small: Detector, small_network: Network, criterion: str) -> None:
    for nothing in (None, torch.zeros(0, 3, 64, 64)):
        with pytest.raises(InputError, match="expected at least one, got none") as caught:
            rank(small, small_network, criterion, nothing)
        assert criterion in str(caught.value)
        assert "use the criterion energy" in caught.value.hint


def test_others_need_no_images(small: Detector, small_network: Network) -> None:
    for criterion in CRITERIA.keys() - ON_IMAGES.keys():
        assert rank(small, small_network, criterion).keys() == {
            g.name for g in small_network.groups
        }


def test_unknown_criterion_is_refused(small: Detector, small_network: Network) -> None:
    with pytest.raises(InputError, match="Unknown pruning criterion 'size'; expected one of l1"):
        rank(small, small_network, "size")
