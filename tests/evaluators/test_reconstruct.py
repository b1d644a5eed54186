"""Sequential reconstruction of sliced and quantised networks."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.demo import demo_dataset, demo_detector
from evaluators.influence import measure_outputs
from evaluators.reconstruct import DenseOutputs, Method, reconstruct
from hw_models.errors import InputError
from spaces.candidate import Candidate
from spaces.compress import compress, kept_channels
from spaces.export import export_onnx
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.onnx_detector import OnnxDetector
from spaces.quantization import ActivationScales, calibrate_activations, quantize
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import integer_weights
from spaces.quantization.simulate import find_convolution, grid_signs
from spaces.saliency import rank

SIZE = 96
Parts = tuple[Detector, Network, DenseOutputs, ActivationScales]


def measured(detector: Detector, images: torch.Tensor) -> Parts:
    network = analyse(detector, SIZE)
    outputs = measure_outputs(detector.net, network, images)
    return detector, network, outputs, calibrate_activations(detector, images)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return measured(demo_detector(), demo_dataset("train", 8).squares(SIZE).float() / 255)


def all_kept(network: Network) -> np.ndarray:
    return np.ones(int(network.sizes.sum()) + 1, dtype=np.bool_)


def uniform(network: Network, weight_bits: int, act_bits: int) -> dict[str, tuple[int, int]]:
    return {layer.name: (weight_bits, act_bits) for layer in network.layers}


def sliced(parts: Parts, keep: float) -> tuple[nn.Module, np.ndarray]:
    detector, network, _, _ = parts
    kept = tuple((g.name, max(1, int(g.size * keep))) for g in network.groups)
    candidate, ranking = Candidate(SIZE, kept), rank(detector, network)
    net = compress(detector, network, candidate, ranking).net
    return net, kept_channels(network, candidate, ranking)


def error(net: nn.Module, dense: nn.Module) -> float:
    """Return the squared error of the scores on images not calibrated on."""
    images = demo_dataset("val", 6).squares(SIZE).float() / 255
    with torch.no_grad():
        return float((net(images)[:, 4:] - dense(images)[:, 4:]).square().sum())


@pytest.mark.parametrize("bits", [16, 32])
def test_nothing_to_do_leaves_the_model_bit_identical(parts: Parts, bits: int) -> None:
    detector, network, outputs, scales = parts
    net = copy.deepcopy(detector.net)
    reconstruct(net, outputs, network, all_kept(network), uniform(network, bits, bits), scales)
    for name, tensor in detector.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    images = demo_dataset("val", 2).squares(SIZE).float() / 255
    with torch.no_grad():
        assert torch.equal(net(images), detector.net(images))


def test_layers_before_the_first_change_stay_bit_identical(parts: Parts) -> None:
    detector, network, outputs, scales = parts
    names = [layer.name for layer in network.layers]
    net = copy.deepcopy(detector.net)
    reconstruct(net, outputs, network, all_kept(network), {names[10]: (4, 8)}, scales)
    for place, name in enumerate(names[:11]):
        same = torch.equal(
            net.state_dict()[f"{name}.weight"], detector.net.state_dict()[f"{name}.weight"]
        )
        assert same is (place < 10), name


def test_what_follows_a_dropped_block_makes_up_for_it(parts: Parts) -> None:
    detector, network, outputs, _ = parts
    inside = {group.block: group.name for group in network.groups}["model.4.m.1"]
    candidate, ranking = Candidate(SIZE, ((inside, 0),)), rank(detector, network)
    dropped = compress(detector, network, candidate, ranking).net
    restored = copy.deepcopy(dropped)
    left = network.of(candidate)
    reconstruct(restored, outputs, left, kept_channels(network, candidate, ranking), {})
    dense = detector.net.state_dict()
    names = [layer.name for layer in left.layers]
    first_behind = names.index("model.4.cv3.conv")
    for place, name in enumerate(names):
        same = torch.equal(restored.state_dict()[f"{name}.weight"], dense[f"{name}.weight"])
        assert same or place >= first_behind, name
    assert error(restored, detector.net) < 0.7 * error(dropped, detector.net)


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(4, 16), (5, 8), (3, 16)])
def test_few_bits_cost_less_than_rounded_alone(
    parts: Parts, weight_bits: int, act_bits: int
) -> None:
    detector, network, outputs, scales = parts
    bits = uniform(network, weight_bits, act_bits)
    rounded, restored = copy.deepcopy(detector.net), copy.deepcopy(detector.net)
    quantize(rounded, bits, scales)
    reconstruct(restored, outputs, network, all_kept(network), bits, scales)
    assert error(restored, detector.net) < 0.6 * error(rounded, detector.net)


@pytest.mark.parametrize("keep", [0.95, 0.9])
def test_lost_channels_cost_less(parts: Parts, keep: float) -> None:
    detector, network, outputs, _ = parts
    raw, kept = sliced(parts, keep)
    restored = copy.deepcopy(raw)
    reconstruct(restored, outputs, network, kept, {})
    assert error(restored, detector.net) < 0.6 * error(raw, detector.net)


def outputs_at(net: nn.Module, network: Network, dense: DenseOutputs) -> dict[str, torch.Tensor]:
    """Return what a network's convolutions write where the dense one's were sampled."""
    found: dict[str, torch.Tensor] = {}

    def record(name: str, y: torch.Tensor) -> None:
        index = dense.positions[name][:, None].expand(-1, y.shape[1], -1)
        found[name] = y.flatten(2).gather(2, index).transpose(1, 2).flatten(0, 1)

    with ExitStack() as stack, torch.no_grad():
        for layer in network.layers:
            hook = lambda _, __, y, name=layer.name: record(name, y)  # noqa: E731
            stack.enter_context(net.get_submodule(layer.name).register_forward_hook(hook))
        net(dense.images)
    return found


def test_every_channel_gets_its_dense_mean(parts: Parts) -> None:
    """With channels missing and few bits, at the positions that were looked at."""
    _, network, outputs, scales = parts
    net, kept = sliced(parts, 0.8)
    reconstruct(net, outputs, network, kept, uniform(network, 4, 8), scales)
    now = outputs_at(net, network, outputs)
    steps = zip(network.steps, network.writes, strict=True)
    writes = {step.name: torch.from_numpy(kept[channels]) for step, channels in steps}
    dense_state, state = parts[0].net.state_dict(), net.state_dict()
    for layer in network.layers:
        expected = outputs.outputs[layer.name].mean(0)[writes[layer.name]]
        found = now[layer.name].mean(0)
        mean = layer.name.removesuffix("conv") + "bn.running_mean"
        if mean in state:  # the norm carries the bias
            found = found + dense_state[mean][writes[layer.name]] - state[mean]
        spread = float(outputs.outputs[layer.name].std())
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * spread)


def test_one_layer_equals_ridge_regression(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain least-squares solver on the same samples, the ridge as additional rows."""
    _, network, outputs, _ = parts
    net, kept = sliced(parts, 0.8)
    raw = copy.deepcopy(net)
    reconstruct(net, outputs, network, kept, {}, method=Method(ridges=(0.02,)))
    name = "model.1.conv"  # the first that lost inputs: what it reads is not reconstructed
    conv = find_convolution(raw, name)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), conv.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        raw(outputs.images)
    columns = torch.nn.functional.unfold(seen[0], 3, padding=1, stride=2).transpose(1, 2)
    x = torch.cat([x[p] for x, p in zip(columns, outputs.positions[name], strict=True)]).double()
    writes = next(w for s, w in zip(network.steps, network.writes, strict=True) if s.name == name)
    y = outputs.outputs[name][:, torch.from_numpy(kept[writes])].double()
    x, y = x - x.mean(0), y - y.mean(0)
    weight = conv.weight.detach().double().flatten(1)
    ridge = (0.02 * x.var(0, correction=0).mean() * len(x)).sqrt()
    rows = torch.cat([x, ridge * torch.eye(x.shape[1])])
    target = torch.cat([y - x @ weight.T, torch.zeros(x.shape[1], len(weight))])
    expected = weight + torch.linalg.lstsq(rows, target).solution.T
    found = find_convolution(net, name).weight.detach().double().flatten(1)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-3)


def test_weights_lie_on_their_grids(parts: Parts) -> None:
    detector, network, outputs, scales = parts
    net = copy.deepcopy(detector.net)
    widths = [2, 3, 4, 5, 6, 8, 16]
    names = [layer.name for layer in network.layers]
    bits = {name: (widths[i % len(widths)], 8) for i, name in enumerate(names)}
    reconstruct(net, outputs, network, all_kept(network), bits, scales)
    for name, (weight_bits, _) in bits.items():
        weight = find_convolution(net, name).weight
        if weight_bits == 16:
            continue
        weight = weight * grid_signs(net, name).view(-1, 1, 1, 1)
        steps = weight_scales(weight, weight_bits)
        again = integer_weights(weight, steps, weight_bits) * steps.view(-1, 1, 1, 1)
        torch.testing.assert_close(again, weight.data, rtol=1e-5, atol=0)


def test_the_exported_file_computes_the_same(parts: Parts, tmp_path: Path) -> None:
    detector, network, outputs, scales = parts
    net, kept = sliced(parts, 0.9)
    bits = uniform(network, 5, 8)
    reconstruct(net, outputs, network, kept, bits, scales)
    path = tmp_path / "model.onnx"
    export_onnx(Detector(net, detector.names, SIZE), SIZE, path, bits, scales)
    images = demo_dataset("val", 1).squares(SIZE).float() / 255
    with torch.no_grad():
        expected = net(images)
    found = torch.from_numpy(OnnxDetector(path)(images.numpy()))
    # a value on the edge between two integers may fall on either side
    assert (found - expected)[:, 4:].abs().mean() < 0.02 * expected[:, 4:].mean()


def test_classic_models_too(shared: Path) -> None:
    detector = load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    _, network, outputs, scales = measured(detector, images)
    net = copy.deepcopy(detector.net)
    nothing = uniform(network, 32, 32)
    reconstruct(net, outputs, network, all_kept(network), nothing, scales)
    head = "model.24.m.0"
    for name, tensor in detector.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name
    reconstruct(net, outputs, network, all_kept(network), uniform(network, 4, 8), scales)
    assert not torch.equal(
        net.state_dict()[f"{head}.weight"], detector.net.state_dict()[f"{head}.weight"]
    )
    with torch.no_grad():
        assert net(images).isfinite().all()


def test_a_name_that_is_no_convolution_is_refused(parts: Parts) -> None:
    detector, network, outputs, scales = parts
    with pytest.raises(InputError, match="no convolution"):
        reconstruct(
            copy.deepcopy(detector.net),
            outputs,
            network,
            all_kept(network),
            {"model.0.bn": (4, 8)},
            scales,
        )
