"""Optimal Brain Surgeon for channels against brute force, and the criteria built on it."""

from __future__ import annotations

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency import score
from spaces.saliency.obs import Elimination
from spaces.saliency.readers import measure_readers
from spaces.saliency.residual import _eliminate

CHANNELS, TAPS, ROWS = 5, 2, 3


@pytest.fixture
def toy() -> tuple[Tensor, Tensor, Tensor]:
    """A weight [R, F], a Hessian [F, F] and the features of each channel [C, B], interleaved."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, CHANNELS * TAPS, generator=generator, dtype=torch.float64)
    x[:, 3] += 2 * x[:, 1]  # some can be predicted from others
    weight = torch.randn(ROWS, CHANNELS * TAPS, generator=generator, dtype=torch.float64)
    return weight, x.T @ x / len(x), torch.arange(CHANNELS * TAPS).view(TAPS, CHANNELS).T


def brute_force(weight: Tensor, hessian: Tensor, removed: Tensor) -> tuple[float, Tensor]:
    """Return the least loss 1/2 tr(D H D^T) with some weights at zero, and the weights."""
    kept = torch.ones(len(hessian), dtype=torch.bool)
    kept[removed] = False
    best = torch.zeros_like(weight)
    moved = torch.linalg.solve(hessian[kept][:, kept], hessian[kept][:, ~kept])
    best[:, kept] = weight[:, kept] + weight[:, ~kept] @ moved.T
    change = best - weight
    return float((change @ hessian * change).sum()) / 2, best


def test_losses_and_updates_are_the_optimum(toy: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, hessian, features = toy
    part = Elimination(weight.clone(), torch.linalg.inv(hessian), features)
    removed: list[int] = []
    before = 0.0
    for channel in (3, 0, 4):
        left = torch.tensor([c for c in range(CHANNELS) if c not in removed])
        found = part.losses(left)
        expected = [
            brute_force(weight, hessian, features[[*removed, int(c)]].flatten())[0] - before
            for c in left
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-9)
        part.remove(channel)
        removed.append(channel)
        before, best = brute_force(weight, hessian, features[removed].flatten())
        torch.testing.assert_close(part.weight_RF, best)


def test_greedy_elimination_is_the_best_of_all_pairs_here(
    toy: tuple[Tensor, Tensor, Tensor],
) -> None:
    weight, hessian, features = toy
    part = Elimination(weight.clone(), torch.linalg.inv(hessian), features)
    scores = _eliminate([part], CHANNELS)
    order = scores.argsort().tolist()
    pairs = {
        pair: brute_force(weight, hessian, features[list(pair)].flatten())[0]
        for pair in combinations(range(CHANNELS), 2)
    }
    assert tuple(sorted(order[:2])) == min(pairs, key=pairs.__getitem__)
    assert float(scores[order[1]]) == pytest.approx(min(pairs.values()), rel=1e-9)
    everything = (weight @ hessian * weight).sum() / 2
    assert float(scores.max()) == pytest.approx(float(everything), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_looking_at_few_is_hardly_worse_than_at_all(seed: int) -> None:
    """Forty channels, of which ten go."""
    channels, kept_out = 40, 10
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    x = torch.randn(400, channels, generator=generator, dtype=torch.float64) @ mixed
    hessian, weight = x.T @ x / len(x), torch.randn(20, channels, generator=generator).double()
    features = torch.arange(channels)[:, None]

    def elimination() -> Elimination:
        return Elimination(weight.clone(), torch.linalg.inv(hessian), features)

    exact, removed = elimination(), list[int]()
    for _ in range(kept_out):
        left = torch.tensor([c for c in range(channels) if c not in removed])
        removed.append(int(left[exact.losses(left).argmin()]))
        exact.remove(removed[-1])
    least, _ = brute_force(weight, hessian, torch.tensor(removed))
    scores = _eliminate([elimination()], channels)
    found, _ = brute_force(weight, hessian, scores.argsort()[:kept_out])
    assert found < 1.1 * least
    assert float(scores.sort().values[kept_out - 1]) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("criterion", ["obs", "residual"])
def test_one_of_two_equal_channels_is_cheap(
    small: Detector, small_network: Network, images: Tensor, criterion: str
) -> None:
    """Its readers have the other one; what they read is what it was before."""
    model, name = copy.deepcopy(small), "model.3"
    before = score(small, small_network, criterion, images)[name]
    first, second = before.argsort(descending=True)[:2].tolist()
    block = model.net.get_submodule(name)
    tensors = (block.conv.weight, block.bn.weight, block.bn.bias)
    for tensor in (*tensors, block.bn.running_mean, block.bn.running_var):
        tensor.data[second] = tensor.data[first]
    found = score(model, small_network, criterion, images)[name]
    assert min(found[first], found[second]) < 0.5 * before[[first, second]].min()


def test_residual_grows_from_removal_to_removal(
    small: Detector, small_network: Network, images: Tensor
) -> None:
    scores = score(small, small_network, "residual", images)
    readers = measure_readers(small.net, small_network, images)
    assert len(readers) > len(small_network.groups) // 2
    for reader in readers:
        assert reader.weight_RF.shape == (len(reader.curvature_R), len(reader.channels_F))
    for found in scores.values():
        assert len(np.unique(found.numpy())) == len(found)
