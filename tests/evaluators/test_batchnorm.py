from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluators.batchnorm import Moments, fold_batchnorm, match_moments, measure_moments
from spaces.candidate import Candidate
from spaces.compress import compress, kept_channels
from spaces.groups import analyse
from spaces.model import load_detector
from spaces.saliency import rank


def two_blocks(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8, eps=1e-3),
        nn.SiLU(),
        nn.Conv2d(8, 5, 1, bias=False),
        nn.BatchNorm2d(5, eps=1e-3),
    )
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.1, 4)
    return net.eval()


def without_channels(net: nn.Sequential, removed: list[int]) -> nn.Sequential:
    """Silence channels of the first block: what slicing does to the second."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net[0].weight[removed] = 0
        net[1].weight[removed] = 0
        net[1].bias[removed] = 0
    return net


IMAGES = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def output_moments(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return torch.var_mean(net(IMAGES), dim=(0, 2, 3), correction=0)


def test_the_dense_network_stays_as_it_is() -> None:
    net = two_blocks()
    before = net(IMAGES)
    match_moments(net, IMAGES, measure_moments(net, IMAGES))
    torch.testing.assert_close(net(IMAGES), before)


def test_outputs_get_the_dense_distribution_whatever_the_norms_held() -> None:
    dense = two_blocks()
    pruned = without_channels(dense, [0, 3, 5])
    assert not torch.allclose(output_moments(pruned)[0], output_moments(dense)[0], rtol=0.1)
    match_moments(pruned, IMAGES, {"4": measure_moments(dense, IMAGES)["4"]})
    for now, before in zip(output_moments(pruned), output_moments(dense), strict=True):
        torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-5)


def test_equals_adaptive_batch_norm_for_a_network_trained_on_these_images() -> None:
    dense = two_blocks()
    for name in ("1", "4"):
        moments = measure_moments(dense, IMAGES)[name]
        norm = dense.get_submodule(name)
        norm.running_mean.copy_(moments.mean_C)
        norm.running_var.copy_(moments.var_C)
    pruned = without_channels(dense, [1, 2])
    match_moments(pruned, IMAGES, {"4": measure_moments(dense, IMAGES)["4"]})
    now = measure_moments(pruned, IMAGES)["4"]
    torch.testing.assert_close(pruned[4].running_mean, now.mean_C, rtol=1e-4, atol=1e-4)
    # eps is scaled with the variance: the only difference to EagleEye
    torch.testing.assert_close(pruned[4].running_var, now.var_C, rtol=2e-2, atol=1e-3)


def test_a_variance_below_eps_goes_into_the_weight() -> None:
    dense = two_blocks()
    faint = copy.deepcopy(dense)
    with torch.no_grad():
        dense[4].running_var.fill_(1e-6)
        faint[4].running_var.fill_(1e-6)
        faint[3].weight.mul_(0.05)
    match_moments(faint, IMAGES, {"4": measure_moments(dense, IMAGES)["4"]})
    assert (faint[4].running_var >= 0).all()
    torch.testing.assert_close(faint(IMAGES), dense(IMAGES), rtol=1e-3, atol=1e-4)


def test_dead_channels_stay_finite() -> None:
    dense = two_blocks()
    dead = without_channels(dense, list(range(8)))
    match_moments(dead, IMAGES, measure_moments(dense, IMAGES))
    assert dead(IMAGES).isfinite().all()
    match_moments(dense, IMAGES, measure_moments(dead, IMAGES))
    assert dense(IMAGES).isfinite().all()


def test_moments_of_some_channels() -> None:
    moments = Moments(torch.arange(4.0), torch.arange(4.0) + 1)
    assert moments.of(torch.tensor([True, False, False, True])).mean_C.tolist() == [0, 3]
    assert moments.of(torch.tensor([2])).var_C.tolist() == [3]


@pytest.mark.parametrize("weights", ["yolov5nu.pt", "yolov5n_v6.1_official.pt"])
def test_every_norm_of_a_real_network_is_matched(shared: Path, weights: str) -> None:
    detector = load_detector(shared / "weights" / weights)
    network = analyse(detector, 96)
    ranking = rank(detector, network)
    kept = tuple((g.name, g.size - g.size // 8) for g in network.groups)
    candidate = Candidate(96, kept)
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    dense = measure_moments(detector.net, images)
    mask = torch.from_numpy(kept_channels(network, candidate, ranking))
    expected = {n: dense[n].of(mask[torch.from_numpy(c)]) for n, c in network.norms.items()}
    net = compress(detector, network, candidate, ranking).net
    match_moments(net, images, expected)
    after = measure_moments(net, images)
    for name, moments in expected.items():
        was = detector.net.get_submodule(name)
        norm = net.get_submodule(name)
        mask_C = mask[torch.from_numpy(network.norms[name])]
        # the mean of the norm's output, before and after
        old = (moments.mean_C - was.running_mean[mask_C]) / (
            was.running_var[mask_C] + was.eps
        ) ** 0.5
        new = (after[name].mean_C - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5
        torch.testing.assert_close(
            new * norm.weight, old * was.weight[mask_C], rtol=1e-3, atol=1e-3
        )


def test_folding_changes_nothing_and_keeps_hooks() -> None:
    detector = load_detector("yolov5n.yaml", names=("a", "b"))
    net = detector.net
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = net(images)
        calls: list[str] = []
        net.model[0].conv.register_forward_pre_hook(lambda *_: calls.append("hook"))
        fold_batchnorm(net)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        torch.testing.assert_close(net(images), before, rtol=1e-3, atol=1e-3)
    assert calls == ["hook"]
