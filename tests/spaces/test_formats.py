"""What every format promises, on a sliced network; and what each is for."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluators.detection import MIN_CONFIDENCE, detect
from hw_models.errors import InputError
from spaces.compress import compress
from spaces.export import folded
from spaces.formats import FORMATS
from spaces.formats.coding import decode, encode
from spaces.formats.interface import Compressed, Format
from spaces.formats.shared import FEWEST_WEIGHTS, MOST_ERROR
from spaces.formats.storage import load_stored
from spaces.groups import Network
from spaces.model import Detector
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.calibrators import mse_clip
from spaces.quantization.sharing import shared_inputs
from spaces.saliency import rank
from spaces.space import SearchSpace, keep_levels

IMGSZ = 64
STAND_IN = Path(__file__).parents[1] / "worker" / "trtexec_stand_in.py"
MIXES = ("plain", "mixed")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(u_detector: Detector, u_network: Network, images: Tensor) -> dict[str, Compressed]:
    """A network with half of its channels, less a block: without few bits, and of many widths."""
    space = SearchSpace(u_network, [IMGSZ], keep_levels(u_network), depth=["model.6.m.1"])
    *levels, dropped = space.upper
    candidate = space.decode(np.array([*(level // 2 for level in levels), dropped]))
    sliced = compress(u_detector, u_network, candidate, rank(u_detector, u_network))
    scales = calibrate_activations(sliced, images, mse_clip)
    names = [name for name in shared_inputs(sliced.net) if "dfl" not in name]
    widths = [(8, 8), (4, 8), (16, 16), (6, 16), (32, 32), (3, 8)]
    mixes = {
        "plain": {},
        "mixed": {name: widths[place % 6] for place, name in enumerate(names)},
    }
    models = {}
    for mix, bits in mixes.items():
        net = Compressed(sliced, IMGSZ, bits, scales, images).simulated()
        models[mix] = Compressed(Detector(net, sliced.names, IMGSZ), IMGSZ, bits, scales, images)
    return models


@pytest.fixture(scope="module")
def written(
    models: dict[str, Compressed], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Return a function from a format's name and a mix to the main file."""

    @cache
    def write(name: str, mix: str) -> Path:
        return FORMATS[name].write(models[mix], tmp_path_factory.mktemp(name))

    return write


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", FORMATS)
class TestEveryFormat:
    def test_a_file_detects_what_was_simulated(
        self,
        name: str,
        mix: str,
        models: dict[str, Compressed],
        images: Tensor,
        written: Callable[[str, str], Path],
    ) -> None:
        form, model, path = FORMATS[name], models[mix], written(name, mix)
        assert path.name == form.file
        run = form.load(path)
        found = np.concatenate([run(image[None].numpy()) for image in images])
        with torch.inference_mode():
            expected = model.simulated()(images).numpy()
        assert found.shape == expected.shape
        error = np.abs(found - expected)[:, 4:].mean()
        spread = np.abs(expected - expected.mean())[:, 4:].mean()
        assert error < (0.02 if form.is_exact else 0.5) * spread
        counted, promised = (
            form.integer_convolutions(path),
            form.promised_integer_convolutions(model),
        )
        assert counted == promised or (not form.is_exact and counted > promised)
        on_disk = sum(file.stat().st_size for file in path.parent.iterdir())
        assert 0 < form.size_bytes(path) <= on_disk


def test_stored_sizes_are_those_of_the_bits(written: Callable[[str, str], Path]) -> None:
    sizes = {
        (name, mix): FORMATS[name].size_bytes(written(name, mix))
        for name in ("onnx-tensorrt", "packed", "shared")
        for mix in MIXES
    }
    assert sizes["packed", "mixed"] < sizes["onnx-tensorrt", "mixed"]
    assert sizes["packed", "mixed"] < sizes["packed", "plain"]
    assert sizes["shared", "plain"] < 0.5 * sizes["packed", "plain"]


def test_few_large_weights_do_not_take_the_values_of_all_others(
    models: dict[str, Compressed], tmp_path: Path
) -> None:
    detector = copy.deepcopy(models["plain"].detector)
    layer = next(m for m in detector.net.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    weight_OI = layer.weight.data.flatten(1)
    weight_OI[0, :3] = 8 * weight_OI.abs().max()
    model = replace(models["plain"], detector=detector)
    stored = load_stored(FORMATS["shared"].write(model, tmp_path)).net.state_dict()
    for name, weight in folded(detector.net).state_dict().items():
        if weight.ndim == 4 and weight.numel() >= FEWEST_WEIGHTS:
            error_O, energy_O = ((x**2).flatten(1).sum(1) for x in (stored[name] - weight, weight))
            assert float((error_O / energy_O).mean()) < 1.1 * MOST_ERROR, name


def with_objects(model: Compressed) -> Compressed:
    """Let an untrained head see something here and there; float32, so that ties stay ties."""
    names = shared_inputs(model.detector.net)
    model = replace(model, bits=dict.fromkeys((n for n in names if "dfl" not in n), (32, 32)))
    head = model.detector.net.get_submodule("model")[-1]  # type: ignore[index]
    for branch in head.cv3:
        branch[-1].bias.data.fill_(-1.0)
    return model


@pytest.mark.parametrize("name", ["onnx-tensorrt", "onnx-cpu", "openvino", "trtexec"])
def test_suppression_in_the_graph_finds_what_suppression_outside_finds(
    name: str, models: dict[str, Compressed], images: Tensor, tmp_path: Path
) -> None:
    form, model = FORMATS[name], with_objects(models["plain"])
    with torch.inference_mode():
        outputs = model.simulated()(images)
    scores = outputs[0, 4:].flatten().sort(descending=True).values
    least = float((scores[60] + scores[61]) / 2)
    assert least > MIN_CONFIDENCE
    run = form.load(form.write(model, tmp_path, least))
    found = torch.from_numpy(np.array(run(images[:1].numpy())))
    (expected,) = detect(outputs[:1])
    expected = expected[expected[:, 4] > least]
    assert len(expected) > 1
    assert found.shape == expected.shape
    order = found[:, 4].argsort(descending=True)
    assert torch.allclose(found[order], expected, rtol=0.02, atol=0.3)


@pytest.mark.parametrize("name", ["packed", "shared"])
def test_formats_for_storage_have_no_suppression(
    name: str, models: dict[str, Compressed], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--nms"):
        FORMATS[name].write(models["plain"], tmp_path, 0.25)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("content", [None, b"", b"\x00" * 100])
def test_a_file_of_something_else_is_an_input_error(
    form: Format, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / form.file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        form.load(path)


def test_a_packed_detector_is_the_simulated_one_again(
    models: dict[str, Compressed], images: Tensor, written: Callable[[str, str], Path]
) -> None:
    model = models["mixed"]
    loaded = load_stored(written("packed", "mixed"))
    assert (loaded.names, loaded.imgsz) == (model.detector.names, IMGSZ)
    with torch.inference_mode():
        expected = model.simulated()(images)
        assert (loaded.net(images) - expected).abs().mean() < 0.01 * expected.abs().mean()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, metadata: metadata.update(format="other"),
        lambda tensors, metadata: metadata.update(codes="{}"),
        lambda tensors, metadata: metadata.update(codes=metadata["codes"].replace("64", "65")),
        lambda tensors, metadata: metadata.update(yaml="{}"),
        lambda tensors, metadata: metadata.update(scales="7"),
        lambda tensors, metadata: tensors.pop("model.0.conv.bias"),
        lambda tensors, metadata: tensors.update(
            {"model.3.conv.weight": tensors["model.3.conv.weight"][:50].clone()}
        ),
    ],
)
def test_a_damaged_stored_file_is_an_input_error(
    damage: Callable[[dict[str, Tensor], dict[str, str]], None],
    written: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    with safetensors.safe_open(written("packed", "mixed"), framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    damage(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_stored(path)


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(
    st.just(b), st.lists(st.integers(0, 2**b - 1), min_size=1, max_size=300))))  # fmt: skip
def test_numbers_come_back(case: tuple[int, list[int]]) -> None:
    bits, numbers = case
    data, coding = encode(np.array(numbers, np.uint8), bits)
    assert decode(data, coding, bits, len(numbers)).tolist() == numbers
    assert len(data) <= -(-len(numbers) * bits // 8)
    with pytest.raises(ValueError, match="expected"):
        decode(data, coding, bits, len(numbers) + 9)


def test_numbers_of_uneven_frequency_take_less_than_their_bits() -> None:
    numbers = np.zeros(1000, np.uint8)
    numbers[::10] = 7
    data, coding = encode(numbers, 3)
    assert coding == "huffman"
    assert len(data) < 1000 * 3 / 8


def test_a_bundle_builds_with_its_own_script(models: dict[str, Compressed], tmp_path: Path) -> None:
    FORMATS["trtexec"].write(models["mixed"], tmp_path)
    flags = (tmp_path / "flags.txt").read_text().splitlines()
    assert flags[:3] == ["--fp16", "--int8", "--precisionConstraints=obey"]
    precisions = dict(
        pair.rsplit(":", 1) for pair in flags[3].removeprefix("--layerPrecisions=").split(",")
    )
    widths = models["mixed"].bits
    nodes = [n.name for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "Conv"]
    names = [name for name in shared_inputs(models["mixed"].detector.net) if "dfl" not in name]
    assert precisions == {
        node: "fp32" if max(widths[name]) == 32 else "fp16"
        for node, name in zip(nodes, names, strict=True)
        if name not in models["mixed"].integer_layers
    }
    tool = tmp_path / "trtexec"
    tool.write_text(
        f'#!/bin/sh\nexec {sys.executable} {STAND_IN} --iterations=1 --duration=0 "$@"\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(  # noqa: S603
        [tmp_path / "build.sh"], capture_output=True, text=True, timeout=100,
        env={**os.environ, "TRTEXEC": str(tool)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "model.engine").stat().st_size > 0
    assert (tmp_path / "times.json").is_file()


def test_a_bundle_without_its_script_is_refused(
    models: dict[str, Compressed], tmp_path: Path
) -> None:
    path = FORMATS["trtexec"].write(models["plain"], tmp_path)
    (tmp_path / "build.sh").unlink()
    with pytest.raises(InputError, match="no trtexec bundle"):
        FORMATS["trtexec"].load(path)
