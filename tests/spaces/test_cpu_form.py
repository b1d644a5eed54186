"""Files in the form of ONNX Runtime's CPU kernels: run in integers, close to float."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch.nn import functional

from evaluators.demo import demo_dataset, demo_detector
from hw_models.errors import InputError
from spaces.cpu_form import (
    LEVELS,
    OF_PICTURE,
    OF_SIGMOID,
    Grid,
    _best_grid,
    blocked_weight,
    rounded_tensors,
)
from spaces.export import export_onnx, export_onnx_cpu
from spaces.model import Detector
from spaces.onnx_detector import OnnxDetector
from spaces.quantization import quantize

IMGSZ = 160


@pytest.fixture(scope="module")
def detector() -> Detector:
    return demo_detector()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return demo_dataset("train", 8).squares(IMGSZ).float() / 255


def trunk(detector: Detector) -> list[str]:
    """Return all convolutions but the outputs of the head and its decoding."""
    names = [n for n, m in detector.net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    return [n for n in names if not (n.startswith("model.24") and n.endswith((".2", "dfl.conv")))]


@pytest.fixture(scope="module")
def file(
    detector: Detector, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("cpu") / "model.onnx"
    bits = dict.fromkeys(trunk(detector), (8, 8))
    net = copy.deepcopy(detector)
    quantize(net.net, {name: (8, 16) for name in bits})
    export_onnx_cpu(net, IMGSZ, path, images, bits)
    return path


def integers(file: Path, layer: str) -> npt.NDArray[np.int8]:
    """Return a layer's weight [O, I, kh, kw] as a file stores it."""
    stored = {x.name: x for x in onnx.load(file).graph.initializer}
    weight = stored[f"{layer}.weight_int8"]
    assert weight.data_type == TensorProto.INT8
    values: npt.NDArray[np.int8] = numpy_helper.to_array(weight)
    return values


def executed_ops(path: Path, folder: Path) -> Counter[str]:
    """Run a file once and count the kernels that ran."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    session.run(None, {"images": np.zeros((1, 3, IMGSZ, IMGSZ), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return Counter(
        event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")
    )


def test_everything_between_integer_convolutions_runs_in_integers(
    file: Path, detector: Detector, tmp_path: Path
) -> None:
    ran = executed_ops(file, tmp_path)
    assert ran["QLinearConv"] == len(trunk(detector))
    assert ran["Conv"] + ran["FusedConv"] == 6  # the outputs of the head
    assert ran["QLinearSigmoid"] >= ran["QLinearMul"] >= len(trunk(detector))
    assert ran["QLinearConcat"] >= 11
    assert ran["QuantizeLinear"] <= 4  # of the picture among them
    assert ran["DequantizeLinear"] <= 12


def test_outputs_are_those_of_the_float_model_up_to_8_bits(
    file: Path, detector: Detector, images: torch.Tensor
) -> None:
    run = OnnxDetector(file)
    with torch.no_grad():
        expected = detector.net(images).numpy()
    found = np.concatenate([run(image[None].numpy()) for image in images])
    error = np.abs(found - expected)
    assert error[:, 4:].mean() < 2e-3
    sure = expected[:, 4:].max(1) > 0.5
    assert error.transpose(0, 2, 1)[sure][:, :4].mean() < 2  # pixels
    assert error.transpose(0, 2, 1)[sure][:, 4:].mean() < 0.01


def test_a_model_without_few_bits_is_the_plain_export(
    detector: Detector, images: torch.Tensor, tmp_path: Path
) -> None:
    export_onnx(detector, IMGSZ, tmp_path / "a.onnx")
    export_onnx_cpu(detector, IMGSZ, tmp_path / "b.onnx", images)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_weights_of_few_bits_stay_on_their_grid_and_are_int8(
    detector: Detector, images: torch.Tensor, tmp_path: Path
) -> None:
    name = "model.3.conv"
    net = copy.deepcopy(detector)
    quantize(net.net, {name: (3, 16)})
    export_onnx_cpu(net, IMGSZ, tmp_path / "m.onnx", images, {name: (3, 8)})
    assert set(np.unique(integers(tmp_path / "m.onnx", name))) <= {-4, -3, -2, -1, 0, 1, 2, 3}


def test_an_unknown_layer_is_refused(
    detector: Detector, images: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no convolution 'model\.99'"):
        export_onnx_cpu(detector, IMGSZ, tmp_path / "m.onnx", images, {"model.99": (8, 8)})


def test_the_decoding_gets_no_grid(file: Path) -> None:
    model = onnx.load(file)
    rounded = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert rounded
    assert not [tensor for tensor in rounded if "model.24" in tensor and "/cv" not in tensor]
    assert not rounded_tensors(model.graph.node, ())


def test_the_grid_of_the_picture_loses_nothing() -> None:
    picture = (np.arange(256) / 255).astype(np.float32)
    assert OF_PICTURE.round(picture) == pytest.approx(picture, abs=1e-6)


def test_the_picture_is_read_in_blocks(file: Path) -> None:
    model = onnx.load(file)
    readers = [node.op_type for node in model.graph.node if "images" in node.input]
    assert readers == ["SpaceToDepth"]
    assert integers(file, "model.0.conv").shape[1:] == (12, 3, 3)


@pytest.mark.parametrize(("kernel", "pad"), [(6, 2), (4, 0), (2, 0)])
def test_a_weight_for_blocks_does_the_same(kernel: int, pad: int) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=random)
    weight = torch.rand(5, 3, kernel, kernel, generator=random)
    blocked = torch.from_numpy(blocked_weight(weight.numpy()))
    # PyTorch's order of channels: those of the map, then rows and columns within the block
    order = [channel * 4 + pixel for pixel in range(4) for channel in range(3)]
    blocks = functional.pixel_unshuffle(images, 2)[:, order]
    found = functional.conv2d(blocks, blocked, padding=pad // 2)
    assert torch.allclose(
        found, functional.conv2d(images, weight, stride=2, padding=pad), atol=1e-5
    )


def test_a_picture_that_is_read_otherwise_is_read_as_it_is(
    detector: Detector, images: torch.Tensor, tmp_path: Path
) -> None:
    net = copy.deepcopy(detector)
    stem = net.net.get_submodule("model.0.conv")
    assert isinstance(stem, torch.nn.Conv2d)
    stem.weight = torch.nn.Parameter(stem.weight[:, :, 1:, 1:].contiguous())
    stem.kernel_size, stem.padding = (5, 5), (2, 2)
    path = tmp_path / "m.onnx"
    export_onnx_cpu(net, IMGSZ, path, images, {"model.0.conv": (8, 8), "model.1.conv": (8, 8)})
    assert integers(path, "model.0.conv").shape[1:] == (3, 5, 5)
    with torch.no_grad():
        expected = net.net(images[:1]).numpy()
    assert np.abs(OnnxDetector(path)(images[:1].numpy()) - expected)[:, 4:].mean() < 2e-3


def test_no_sum_over_a_bright_picture_overflows_16_bits(file: Path, detector: Detector) -> None:
    """As CPUs without VNNI add: two neighbouring products in 16 bits."""
    weight = integers(file, "model.0.conv")
    assert 32 < np.abs(weight).max() <= 63
    neighbours = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1).astype(np.int64)
    pairs = np.abs(neighbours).reshape(len(weight), -1, 2).sum(2) * LEVELS
    assert pairs.max() < 2**15
    images = np.ones((1, 3, IMGSZ, IMGSZ), np.float32)
    with torch.no_grad():
        expected = detector.net(torch.from_numpy(images)).numpy()
    assert np.abs(OnnxDetector(file)(images) - expected)[:, 4:].max() < 0.02


def test_a_grid_holds_zero_exactly_and_covers_its_range() -> None:
    grid = Grid.over(-0.28, 3.0)
    assert grid.round(np.array([0.0], np.float32)) == 0.0
    assert grid.step == pytest.approx(3.28 / LEVELS)
    x = np.linspace(-0.27, 2.99, 1000, dtype=np.float32)
    assert np.abs(grid.round(x) - x).max() <= grid.step * 0.51
    ends = grid.round(np.array([9.0, -9.0], np.float32))
    assert ends == pytest.approx([3.0, -0.28], abs=grid.step)
    assert OF_SIGMOID.round(np.array([0.5, 1.0], np.float32)) == pytest.approx(
        [0.5, 1.0], abs=1 / 250
    )


def test_what_enters_a_silu_is_clipped_where_that_does_not_matter() -> None:
    x = np.random.default_rng(0).normal(0, 4, 20_000).astype(np.float32)
    plain, silu = _best_grid(x, through_silu=False), _best_grid(x, through_silu=True)
    assert silu.zero < plain.zero  # less of the range is spent below zero
    assert silu.step < plain.step
