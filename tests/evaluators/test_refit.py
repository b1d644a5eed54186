from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from evaluators import refit as module
from evaluators.demo import demo_dataset, demo_detector
from evaluators.refit import Inputs, measure_inputs, refit, second_moments
from spaces.candidate import Candidate
from spaces.compress import compress, kept_channels
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.saliency import rank

SIZE = 96


@pytest.fixture(scope="module")
def parts() -> tuple[Detector, Network, torch.Tensor]:
    detector = demo_detector()
    images = demo_dataset("train", 4).squares(SIZE).float() / 255
    return detector, analyse(detector, SIZE), images


def slim(network: Network, keep: float) -> Candidate:
    return Candidate(SIZE, tuple((g.name, max(1, int(g.size * keep))) for g in network.groups))


def restored(
    parts: tuple[Detector, Network, torch.Tensor], keep: float
) -> tuple[nn.Module, nn.Module, dict[str, Inputs], np.ndarray]:
    """Return the network before and after the refit, the statistics and the kept channels."""
    detector, network, images = parts
    inputs = measure_inputs(detector.net, network, images)
    candidate, ranking = slim(network, keep), rank(detector, network)
    kept = kept_channels(network, candidate, ranking)
    before = compress(detector, network, candidate, ranking).net
    after = compress(detector, network, candidate, ranking).net
    refit(after, detector.net, network, kept, inputs)
    return before, after, inputs, kept


def patches(parts: tuple[Detector, Network, torch.Tensor], name: str) -> torch.Tensor:
    """Return everything a dense convolution reads, [positions, features], in float64."""
    detector, _, images = parts
    conv = detector.net.get_submodule(name)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), conv.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        detector.net(images)
    columns = unfold(seen[0], conv.kernel_size, padding=conv.padding, stride=conv.stride)
    return columns.transpose(1, 2).flatten(0, 1).double()


@pytest.mark.parametrize("keep", [0.8, 0.3])
@pytest.mark.parametrize("name", ["model.3.conv", "model.4.cv1.conv", "model.9.cv1.conv"])
def test_equals_ridge_regression_of_the_lost_outputs(
    parts: tuple[Detector, Network, torch.Tensor], name: str, keep: float
) -> None:
    """Against a plain least-squares solver on all patches, the ridge as additional rows."""
    _, after, _, kept = restored(parts, keep)
    detector, network, _ = parts
    x = patches(parts, name)
    step = next(i for i, s in enumerate(network.steps) if s.name == name)
    dense = detector.net.get_submodule(name).weight.detach().double()
    kept_O = torch.from_numpy(kept[network.writes[step]])
    taps = dense.shape[2] * dense.shape[3]
    kept_F = torch.from_numpy(kept[network.reads[step]]).repeat_interleave(taps)
    weight = dense[kept_O].flatten(1)
    centred = x - x.mean(0)
    ridge = (module.RIDGE * centred.var(0, correction=0).mean() * len(x)).sqrt()
    rows = torch.cat([centred[:, kept_F], ridge * torch.eye(int(kept_F.sum()))])
    lost = centred[:, ~kept_F] @ weight[:, ~kept_F].T
    target = torch.cat([lost, torch.zeros(int(kept_F.sum()), len(weight))])
    expected = weight[:, kept_F] + torch.linalg.lstsq(rows, target).solution.T
    got = after.get_submodule(name).weight.detach().double().flatten(1)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=2e-3)


def test_the_mean_output_of_a_layer_is_the_dense_one(
    parts: tuple[Detector, Network, torch.Tensor],
) -> None:
    before, after, _, kept = restored(parts, 0.8)
    detector, network, _ = parts
    name = "model.3.conv"
    step = next(i for i, s in enumerate(network.steps) if s.name == name)
    kept_F = torch.from_numpy(kept[network.reads[step]]).repeat_interleave(9)
    kept_O = torch.from_numpy(kept[network.writes[step]])
    x = patches(parts, name).float()
    dense = x.mean(0) @ detector.net.get_submodule(name).weight[kept_O].flatten(1).T
    now = x.mean(0)[kept_F] @ after.get_submodule(name).weight.flatten(1).T
    # the norm behind takes the difference
    shift = before.model[3].bn.running_mean - after.model[3].bn.running_mean
    torch.testing.assert_close(now + shift, dense, rtol=1e-3, atol=1e-3)


def test_a_layer_that_lost_no_input_stays_bit_identical(
    parts: tuple[Detector, Network, torch.Tensor],
) -> None:
    detector, network, _ = parts
    before, after, _, _ = restored(parts, 1.0)
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name
    _, after, _, _ = restored(parts, 0.8)
    stem = network.layers[0]  # reads the picture
    assert stem.name == "model.0.conv"
    assert after.get_submodule(stem.name).weight.shape[0] < stem.out_channels
    kept_rows = {row.numpy().tobytes() for row in after.get_submodule(stem.name).weight.detach()}
    dense_rows = {row.numpy().tobytes() for row in detector.net.model[0].conv.weight.detach()}
    assert kept_rows <= dense_rows


@pytest.mark.parametrize("largest", [2304, 100])
def test_outputs_come_closer_to_the_dense_ones(
    parts: tuple[Detector, Network, torch.Tensor], monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    """On other images than those calibrated on, with covariances of patches and of channels."""
    monkeypatch.setattr(module, "LARGEST_COVARIANCE", largest)
    before, after, inputs, _ = restored(parts, 0.9)
    features = len(inputs["model.3.conv"].mean_F)
    assert features == (32 * 9 if largest > 100 else 32)
    images = demo_dataset("val", 4).squares(SIZE).float() / 255
    with torch.no_grad():
        dense, raw, better = (net(images)[:, 4:] for net in (parts[0].net, before, after))
    assert (better - dense).square().sum() < 0.8 * (raw - dense).square().sum()


def test_layers_that_read_one_tensor_share_its_statistics(
    parts: tuple[Detector, Network, torch.Tensor],
) -> None:
    detector, network, images = parts
    inputs = measure_inputs(detector.net, network, images)
    assert inputs["model.2.cv1.conv"] is inputs["model.2.cv2.conv"]
    assert inputs["model.2.cv1.conv"] is not inputs["model.3.conv"]
    assert "model.0.conv" not in inputs


def test_statistics_of_several_batches_are_those_of_all_positions(
    parts: tuple[Detector, Network, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)  # of 4 images: batches of different size
    detector, network, images = parts
    name = "model.9.cv1.conv"
    inputs = measure_inputs(detector.net, network, images)[name]
    x = patches(parts, name)
    torch.testing.assert_close(inputs.mean_F.double(), x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        inputs.covariance_FF.double(), torch.cov(x.T, correction=0), rtol=1e-3, atol=1e-4
    )


def test_dead_inputs_are_no_trouble(parts: tuple[Detector, Network, torch.Tensor]) -> None:
    detector, network, _ = parts
    inputs = {
        name: Inputs.of(torch.zeros_like(i.mean_F), torch.zeros_like(i.covariance_FF))
        for name, i in measure_inputs(detector.net, network, parts[2]).items()
    }
    candidate, ranking = slim(network, 0.5), rank(detector, network)
    before = compress(detector, network, candidate, ranking).net
    after = compress(detector, network, candidate, ranking).net
    refit(after, detector.net, network, kept_channels(network, candidate, ranking), inputs)
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor)


@pytest.mark.parametrize("features", [1, module.BLOCK, 2 * module.BLOCK + 7])
def test_second_moments(features: int) -> None:
    x_PF = torch.randn(50, features, generator=torch.Generator().manual_seed(0))
    moments_FF = second_moments(x_PF)
    torch.testing.assert_close(moments_FF, x_PF.T @ x_PF / 50)
