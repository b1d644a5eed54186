"""Exported files: what is in them, and that they compute what is simulated."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from torch import Tensor

from evaluators.demo import demo_detector
from hw_models.cost import CostModel
from hw_models.device import load_profile
from hw_models.errors import InputError
from hw_models.onnx_reader import read_onnx
from spaces.compress import compress
from spaces.export import export_onnx
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.onnx_detector import OnnxDetector
from spaces.quantization import ActivationScales, calibrate_activations, quantize
from spaces.quantization.grid import input_scale, weight_range
from spaces.saliency.ranking import rank
from spaces.space import SearchSpace, keep_levels

IMGSZ = 128

Bits = dict[str, tuple[int, int]]


@pytest.fixture(scope="module", params=["u", "classic"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return request.getfixturevalue(f"{request.param}_detector")


@pytest.fixture(scope="module")
def images() -> Tensor:
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(noise, size=(IMGSZ, IMGSZ), mode="bilinear")


@pytest.fixture(scope="module")
def scales(detector: Detector, images: Tensor) -> ActivationScales:
    return calibrate_activations(detector, images)


def all_layers(scales: ActivationScales, bits: tuple[int, int]) -> Bits:
    return {name: bits for name in scales.groups if "dfl" not in name}


def simulated(detector: Detector, bits: Mapping[str, tuple[int, int]], scales: ActivationScales):  # noqa: ANN201 (a network)
    net = copy.deepcopy(detector.net)
    quantize(net, bits, scales)
    return net


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean error of boxes relative to their mean, or the largest error of a score."""
    boxes, scores = np.s_[:, :4], np.s_[:, 4:]
    relative = np.abs(found[boxes] - expected[boxes]).mean() / expected[boxes].mean()
    return max(float(relative), float(np.abs(found[scores] - expected[scores]).max()))


@torch.no_grad()
def outputs(net, path: Path, images: Tensor) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN001
    """Run a network and a file on the same images, one by one."""
    run = OnnxDetector(path, in_float=True)
    expected = np.concatenate([net(image[None]).numpy() for image in images])
    return expected, np.concatenate([run(image[None].numpy()) for image in images])


@torch.no_grad()
def outputs_equally_rounded(
    net: torch.nn.Module, path: Path, image: Tensor, steps: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
    """As `outputs`, with convolutions of the network reading what the file rounded.

    Sums differ in their last bits between two programs; one half way between two numbers of a grid
    is rounded up by one program and down by the other, and no more can be said of what follows.

    Returns:
        What the network and the file compute, and by how many steps their roundings differ.
    """
    model = onnx.load(path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    read = [node.input[0] for node in convolutions if node.input[0].endswith("DequantizeLinear")]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in read)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found, *rounded = session.run(None, {"images": image[None].numpy()})
    gaps = []
    for (name, step), values in zip(steps.items(), map(torch.tensor, rounded), strict=True):

        def follow(  # after the hook that rounds
            _: torch.nn.Module, args: tuple[Tensor], step: float = step, values: Tensor = values
        ) -> tuple[Tensor]:
            gaps.append((args[0] - values) / step)
            return (values,)

        net.get_submodule(name).register_forward_pre_hook(follow)
    return net(image[None]).numpy(), found, gaps


@pytest.mark.parametrize(("weight_bits", "tolerance"), [(32, 1e-5), (16, 3e-3)])
def test_a_dense_export_computes_what_torch_does(
    detector: Detector, tmp_path: Path, images: Tensor, weight_bits: int, tolerance: float
) -> None:
    path = tmp_path / "dense.onnx"
    convolutions = [n for n, m in detector.net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    export_onnx(detector, IMGSZ, path, dict.fromkeys(convolutions, (weight_bits, 16)))
    expected, found = outputs(detector.net, path, images)
    assert found.shape == expected.shape
    assert distance(found, expected) < tolerance


@pytest.mark.parametrize("weight_bits", [8, 5, 4, 2])
def test_few_bit_weights_compute_what_is_simulated(
    detector: Detector, scales: ActivationScales, tmp_path: Path, images: Tensor, weight_bits: int
) -> None:
    path = tmp_path / "few.onnx"
    bits = all_layers(scales, (weight_bits, 16))
    export_onnx(detector, IMGSZ, path, bits)
    expected, found = outputs(simulated(detector, bits, scales), path, images)
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("weight_bits", [8, 4, 3])
def test_norms_with_negative_scales_mirror_no_grid(
    detector: Detector, scales: ActivationScales, tmp_path: Path, images: Tensor, weight_bits: int
) -> None:
    net = copy.deepcopy(detector.net)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight[::3] *= -1
    mirrored = dataclasses.replace(detector, net=net)
    path = tmp_path / "mirrored.onnx"
    bits = all_layers(scales, (weight_bits, 16))
    for exported in (
        mirrored,
        dataclasses.replace(mirrored, net=simulated(mirrored, bits, scales)),
    ):
        export_onnx(exported, IMGSZ, path, bits)
        expected, found = outputs(simulated(mirrored, bits, scales), path, images)
        assert distance(found, expected) < 1e-4
    weights = [
        numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.endswith(("_int8", "_int4"))
    ]
    ends = min(x.min() for x in weights), max(x.max() for x in weights)
    assert ends == weight_range(weight_bits)


def test_a_quantised_detector_is_exported_as_it_is(
    detector: Detector, scales: ActivationScales, tmp_path: Path, images: Tensor
) -> None:
    """Its batch norms may have been corrected after the weights were rounded."""
    bits = all_layers(scales, (5, 16)) | {"model.0.conv": (5, 6)}
    net = simulated(detector, bits, scales)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight *= 0.9
    path = tmp_path / "corrected.onnx"
    export_onnx(dataclasses.replace(detector, net=net), IMGSZ, path, bits, scales)
    expected, found = outputs(net, path, images)
    assert distance(found, expected) < 1e-3
    assert sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node) == 1


@pytest.mark.parametrize("act_bits", [8, 6, 3])
def test_few_bit_activations_compute_what_is_simulated(
    detector: Detector, scales: ActivationScales, tmp_path: Path, images: Tensor, act_bits: int
) -> None:
    path = tmp_path / "few.onnx"
    few = ("model.0.conv", "model.6.cv3.conv", "model.9.cv2.conv", "model.20.cv1.conv")
    bits = {name: (32, 32) for name in scales.groups} | dict.fromkeys(few, (8, act_bits))
    export_onnx(detector, IMGSZ, path, bits, scales)
    steps = {name: input_scale(scales, name, act_bits) for name in few}
    for image in images:
        net = simulated(detector, bits, scales)
        expected, found, gaps = outputs_equally_rounded(net, path, image, steps)
        assert distance(found, expected) < 1e-5
        for gap in gaps:
            assert gap.abs().max() < 1.01
            assert (gap.abs() > 0.01).float().mean() < 1e-3


def test_w8a8_agrees_with_the_simulation(
    shared: Path, classic_detector: Detector, tmp_path: Path
) -> None:
    """Rounding amplifies the last bit of a sum, layer by layer, in any two programs.

    What must hold is that most boxes and scores stay closer than rounding itself has moved them.
    """
    files = sorted((shared / "coco" / "val" / "images").glob("*.jpg"))[:4]
    pictures = [Image.open(file).convert("RGB").resize((256, 256)) for file in files]
    photographs = torch.stack([torch.from_numpy(np.array(p)) for p in pictures])
    photographs = photographs.permute(0, 3, 1, 2) / 255
    scales = calibrate_activations(classic_detector, photographs)
    bits = all_layers(scales, (8, 8))
    path = tmp_path / "int8.onnx"
    export_onnx(classic_detector, 256, path, bits, scales)
    expected, found = outputs(simulated(classic_detector, bits, scales), path, photographs)
    with torch.no_grad():
        dense = classic_detector.net(photographs).numpy()
    assert np.median(np.abs(found - expected)) < np.median(np.abs(dense - expected))
    assert np.abs(found - expected).mean() < np.abs(dense - expected).mean()


def test_a_sliced_detector_is_exported(
    u_detector: Detector, u_network: Network, tmp_path: Path, images: Tensor
) -> None:
    space = SearchSpace(u_network, [IMGSZ], keep_levels(u_network))
    candidate = space.decode(space.upper)
    sliced = compress(u_detector, u_network, candidate, rank(u_detector, u_network))
    scales = calibrate_activations(u_detector, images)
    bits = all_layers(scales, (8, 16))
    path = tmp_path / "sliced.onnx"
    export_onnx(sliced, IMGSZ, path, bits)
    expected, found = outputs(simulated(sliced, bits, scales), path, images)
    assert distance(found, expected) < 1e-4
    assert path.stat().st_size < 800_000  # an eighth of the channels of a 2.6 M weight network


@pytest.mark.parametrize(("bits", "bytes_a_weight"), [(32, 4), (16, 2), (8, 1), (6, 1), (4, 0.5)])
def test_the_file_is_as_large_as_its_bits_say(
    detector: Detector, tmp_path: Path, bits: int, bytes_a_weight: float
) -> None:
    convolutions = {n: m for n, m in detector.net.named_modules() if isinstance(m, torch.nn.Conv2d)}
    path = tmp_path / "model.onnx"
    export_onnx(detector, IMGSZ, path, dict.fromkeys(convolutions, (bits, 16)))
    weights = sum(conv.weight.numel() for conv in convolutions.values())
    extra = path.stat().st_size - weights * bytes_a_weight
    assert 0 < extra < 250_000  # biases, scales, anchors and the graph


def test_quantisers_are_as_tensorrt_wants_them(
    detector: Detector, scales: ActivationScales, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    export_onnx(detector, IMGSZ, path, all_layers(scales, (8, 8)), scales)
    model = onnx.load(path)
    constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in rounded}) == len(rounded)  # one a tensor
    for node in rounded:
        assert constants[node.input[2]].dtype == np.int8
        assert constants[node.input[2]] == 0
        assert constants[node.input[1]].shape == ()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantized = [node for node in convolutions if "dfl" not in node.name]
    assert len(quantized) == len(all_layers(scales, (8, 8)))
    for node in quantized:
        activation, weight = (made_by[name] for name in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert constants[weight.input[0]].dtype == np.int8
        assert constants[weight.input[1]].shape == constants[weight.input[0]].shape[:1]
        assert [a.i for a in weight.attribute if a.name == "axis"] == [0]
        assert np.abs(constants[weight.input[0]]).max() <= 127


def test_tensors_that_are_joined_have_equal_scales(
    detector: Detector, scales: ActivationScales, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    export_onnx(detector, IMGSZ, path, all_layers(scales, (8, 8)), scales)
    model = onnx.load(path)
    constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    scale_of = {
        node.input[0]: float(constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    joins = [node for node in model.graph.node if node.op_type in ("Concat", "Add", "MaxPool")]
    compared = 0
    for node in joins:
        known = [scale_of[name] for name in (*node.input, *node.output) if name in scale_of]
        compared += len(known) > 1
        assert len(set(known)) <= 1, node.name
    assert compared >= 4


def test_opsets_stay_readable_for_old_runtimes(u_detector: Detector, tmp_path: Path) -> None:
    versions = {}
    for bits in (16, 8, 4):
        path = tmp_path / f"{bits}.onnx"
        export_onnx(u_detector, IMGSZ, path, {"model.0.conv": (bits, 16)})
        model = onnx.load(path)
        versions[bits] = model.opset_import[0].version
        types = Counter(x.data_type for x in model.graph.initializer)
        assert types[TensorProto.INT4] == (bits == 4)
        assert types[TensorProto.INT8] == (bits == 8)
        assert types[TensorProto.FLOAT16] == 75 - (bits != 16)  # all but the one in Detect's DFL
    assert versions == {16: 17, 8: 17, 4: 21}


def test_the_file_says_what_it_is(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(detector, IMGSZ, path)
    run = OnnxDetector(path, threads=2)
    assert (run.names, run.imgsz) == (detector.names, IMGSZ)
    metadata = {entry.key for entry in onnx.load(path).metadata_props}
    assert metadata == {"names", "imgsz", "paretrim"}


def test_the_same_detector_gives_the_same_bytes(
    detector: Detector, scales: ActivationScales, tmp_path: Path
) -> None:
    before = detector.digest
    for name in ("a.onnx", "b.onnx"):
        export_onnx(detector, IMGSZ, tmp_path / name, all_layers(scales, (8, 8)), scales)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert detector.digest == before


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4)])
def test_onnxruntime_has_nothing_to_warn_of(
    detector: Detector,
    scales: ActivationScales,
    tmp_path: Path,
    images: Tensor,
    capfd: pytest.CaptureFixture[str],
    bits: tuple[int, int],
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(detector, IMGSZ, path, all_layers(scales, bits), scales)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2  # warnings
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"images": images[:1].numpy()})
    assert capfd.readouterr().err == ""


def test_an_unknown_layer_is_refused(u_detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no convolution 'model\.99'"):
        export_onnx(u_detector, IMGSZ, tmp_path / "x.onnx", {"model.99": (8, 8)})
    assert not (tmp_path / "x.onnx").exists()


def test_missing_scales_are_an_input_error(u_detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no activation scales"):
        export_onnx(u_detector, IMGSZ, tmp_path / "x.onnx", {"model.0.conv": (8, 8)})


@pytest.mark.parametrize("content", [None, b"", b"not onnx"])
def test_files_that_cannot_be_run_are_an_input_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be run"):
        OnnxDetector(path)


def test_foreign_onnx_files_are_an_input_error(u_detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(u_detector, IMGSZ, path)
    model = onnx.load(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="KeyError: 'names'"):
        OnnxDetector(path)


@pytest.mark.parametrize("imgsz", [320, 640])
@pytest.mark.parametrize("model", ["u", "classic", "demo"])
def test_an_exported_file_costs_what_the_search_says(
    model: str, imgsz: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    named = None if model == "demo" else request.getfixturevalue(f"{model}_detector")
    detector = named or demo_detector()
    space = SearchSpace(analyse(detector, imgsz), [imgsz])
    export_onnx(detector, imgsz, tmp_path / "model.onnx")
    read = read_onnx(tmp_path / "model.onnx")
    assert read.warnings == ()
    for device in ("jetson-tx2", "jetson-xavier-nx"):
        cost = CostModel(load_profile(device))
        searched, predicted = (
            cost.predict(work) for work in (space.workload(space.dense), read.workload)
        )
        assert predicted.latency_ms == pytest.approx(searched.latency_ms, rel=1e-3)
        assert predicted.energy_mj == pytest.approx(searched.energy_mj, rel=1e-3, nan_ok=True)
        assert predicted.macs == searched.macs
