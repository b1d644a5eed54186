"""Loading detectors from everything they come in."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel

from hw_models.errors import InputError
from spaces.architecture import build, checked
from spaces.model import Detector, load_detector, save_detector

# The modules that only yolov5 v5.0 used, in the smallest network that has them all.
CLASSIC_V5_0: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [
        [-1, 1, "Focus", [64, 3]],
        [-1, 3, "C3", [64]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 1, "SPP", [128, [5, 9, 13]]],
    ],
    "head": [[[1, 3], 1, "Detect", ["nc", "anchors"]]],
}


def run(net: nn.Module, imgsz: int, batch: int = 1) -> Tensor:
    images = torch.rand(batch, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(imgsz))
    with torch.no_grad():
        return net(images)


@pytest.fixture(scope="session")
def u_checkpoint(u_detector: Detector) -> dict[str, Any]:
    """What ultralytics saves: half precision weights under `model`."""
    net = copy.deepcopy(u_detector.net).half()
    net.names = {index: f"name {index}" for index in range(80)}
    return {"model": net, "ema": None, "train_args": {"imgsz": 416}}


@pytest.fixture
def classic_checkpoint(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What yolov5 v5.0 saved: classes of its own `models` package, and a second anchor buffer."""
    net = build(checked(CLASSIC_V5_0, "It"), "It")
    yolo = ModuleType("models.yolo")
    for module, name in ((net, "Model"), (net.model[-1], "Detect")):
        base = type(module)
        module.__class__ = type(name, (base,), {"__module__": "models.yolo"})
        setattr(yolo, name, module.__class__)
    monkeypatch.setitem(sys.modules, "models", ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.yolo", yolo)
    net.names = ["cat", "dog"]
    net.model[-1].register_buffer("anchor_grid", torch.rand(2, 1, 3, 1, 1, 2))
    return {"ema": net, "model": None, "opt": {"imgsz": 512, "project": Path("runs")}}


def test_a_u_checkpoint_is_loaded(u_checkpoint: dict[str, Any], tmp_path: Path) -> None:
    torch.save(u_checkpoint, tmp_path / "u.pt")
    detector = load_detector(tmp_path / "u.pt")
    assert (detector.kind, detector.imgsz, detector.names[79]) == ("u", 416, "name 79")
    expected = copy.deepcopy(u_checkpoint["model"]).float()
    assert torch.equal(run(detector.net, 320), run(expected, 320))
    assert all(x.dtype != torch.float16 for x in detector.net.state_dict().values())


def test_averaged_weights_are_preferred(u_checkpoint: dict[str, Any], tmp_path: Path) -> None:
    ema = copy.deepcopy(u_checkpoint["model"])
    ema.model[0].conv.weight.data.fill_(0.5)
    torch.save({**u_checkpoint, "ema": ema}, tmp_path / "u.pt")
    detector = load_detector(tmp_path / "u.pt")
    assert (detector.net.model[0].conv.weight == 0.5).all()


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # torch, of made-up classes
@pytest.mark.parametrize("zipped", [True, False])
def test_a_classic_checkpoint_of_v5_0_is_loaded(
    classic_checkpoint: dict[str, Any], tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "classic.pt"
    torch.save(classic_checkpoint, path, _use_new_zipfile_serialization=zipped)
    detector = load_detector(path)
    assert (detector.kind, detector.imgsz, detector.names) == ("classic", 512, ("cat", "dog"))
    assert torch.equal(run(detector.net, 96), run(classic_checkpoint["ema"], 96))


@pytest.mark.parametrize("name", ["yolov5nu.pt", "bccd_yolov5nu_320.pt"])
def test_a_real_u_checkpoint_computes_what_ultralytics_does(shared: Path, name: str) -> None:
    path = shared / "weights" / name
    reference = YOLO(path).model.eval()
    detector = load_detector(path)
    assert torch.equal(run(detector.net, 320, 2), run(reference, 320, 2)[0])
    assert detector.names == tuple(reference.names.values())
    assert detector.imgsz == (320 if "320" in name else 640)


def test_the_real_classic_checkpoint_is_loaded(classic_detector: Detector) -> None:
    assert classic_detector.kind == "classic"
    assert classic_detector.names[:2] == ("person", "bicycle")
    assert sum(x.numel() for x in classic_detector.net.parameters()) == 1_872_157  # as published


@pytest.mark.parametrize("imgsz", [320, 416, 640])
@pytest.mark.parametrize("kind", ["u", "classic"])
def test_any_input_size_gives_one_tensor(
    request: pytest.FixtureRequest, kind: str, imgsz: int
) -> None:
    detector = request.getfixturevalue(f"{kind}_detector")
    output = run(detector.net, imgsz)
    cells = sum((imgsz // stride) ** 2 for stride in (8, 16, 32))
    assert output.shape == (1, 84, cells * (3 if kind == "classic" else 1))
    assert output.isfinite().all()
    assert output[:, 4:].min() >= 0
    assert output[:, 4:].max() <= 1


def pickled(detector: Detector) -> Detector:
    return pickle.loads(pickle.dumps(detector))  # noqa: S301 (its own)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", ["u", "classic"])
def test_copies_are_equal_and_independent(
    request: pytest.FixtureRequest, kind: str, duplicate: Callable[[Detector], Detector]
) -> None:
    detector = request.getfixturevalue(f"{kind}_detector")
    before = detector.digest
    copied = duplicate(detector)
    assert copied.digest == before
    assert torch.equal(run(copied.net, 64), run(detector.net, 64))
    copied.net.model[0].conv.weight.data[0, 0, 0, 0] += 1
    assert copied.digest != before
    assert detector.digest == before


def test_a_yaml_gives_an_untrained_detector_with_the_wanted_classes() -> None:
    detector = load_detector("yolov5n.yaml", names=("a", "b"))
    assert detector.names == ("a", "b")
    assert run(detector.net, 64).shape == (1, 6, 84)
    assert detector.digest == load_detector("yolov5n.yaml", names=("c", "d")).digest
    assert detector.digest != load_detector("yolov5n.yaml").digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["u", "classic"])
def test_safetensors_round_trip(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    detector = request.getfixturevalue(f"{kind}_detector")
    path = tmp_path / "saved.safetensors"
    save_detector(detector, path, dtype=dtype)
    loaded = load_detector(path)
    assert (loaded.names, loaded.imgsz, loaded.kind) == (detector.names, detector.imgsz, kind)
    state = detector.net.state_dict()
    for name, tensor in loaded.net.state_dict().items():
        assert tensor.dtype == state[name].dtype
        expected = state[name].to(dtype).float() if tensor.is_floating_point() else state[name]
        assert torch.equal(tensor, expected), name
    assert (loaded.digest == detector.digest) == (dtype == torch.float32 or kind == "classic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, _: tensors.pop("model.0.conv.weight"), r"model\.0\.conv\.weight missing"),
        (lambda tensors, _: tensors.update(extra=torch.ones(1)), "extra unexpected"),
        (
            lambda tensors, _: tensors.update({"model.0.bn.bias": torch.ones(3)}),
            r"model\.0\.bn\.bias of shape \(3,\) instead of \(16,\)",
        ),
        (
            lambda tensors, _: tensors["model.0.bn.bias"].fill_(float("nan")),
            r"model\.0\.bn\.bias not finite",
        ),
        (lambda _, metadata: metadata.update(names='["one"]'), "1 class names, expected 80"),
        (lambda _, metadata: metadata.pop("yaml"), "cannot be read"),
        (lambda _, metadata: metadata.update(yaml="{}"), "does not describe a YOLOv5"),
    ],
)
def test_safetensors_that_do_not_fit_are_refused(
    u_detector: Detector,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor], dict[str, str]], object],
    message: str,
) -> None:
    path = tmp_path / "saved.safetensors"
    save_detector(u_detector, path)
    tensors = load_file(path)
    yaml_text = json.dumps(u_detector.net.yaml)
    metadata = {"yaml": yaml_text, "names": json.dumps(list(u_detector.names)), "imgsz": "640"}
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=message) as caught:
        load_detector(path)
    assert caught.value.hint


def test_a_truncated_checkpoint_is_an_input_error(
    u_checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "u.pt"
    torch.save(u_checkpoint, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        load_detector(path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_checkpoint_runs_nothing_unless_trusted(
    u_checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    victim = tmp_path / "created"
    torch.save({**u_checkpoint, "optimizer": Hostile(victim)}, tmp_path / "u.pt")
    with pytest.raises(InputError, match="system"):
        load_detector(tmp_path / "u.pt")
    assert not victim.exists()
    detector = load_detector(tmp_path / "u.pt", trust_checkpoint=True)
    assert detector.imgsz == 416
    assert victim.exists()


def test_an_activation_that_is_a_program_is_refused(
    u_checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    """ultralytics evaluates `activation` of a model dictionary as Python."""
    victim = tmp_path / "created"
    net = copy.deepcopy(u_checkpoint["model"])
    net.yaml["activation"] = f"__import__('os').system('touch {victim}') or nn.SiLU()"
    torch.save({"model": net}, tmp_path / "u.pt")
    with pytest.raises(InputError, match="the activation"):
        load_detector(tmp_path / "u.pt")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "holds no YOLOv5 model.*'state_dict'"),
        ([1, 2], "holds no YOLOv5 model.*list"),
        ({"model": nn.Conv2d(1, 1, 1)}, r"is a torch\.nn\.modules\.conv\.Conv2d, expected"),
    ],
)
def test_checkpoints_without_a_detector_are_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        load_detector(tmp_path / "x.pt")


def test_a_segmentation_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": SegmentationModel("yolov8n-seg.yaml", verbose=False)}, tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"SegmentationModel, expected the detection model"):
        load_detector(tmp_path / "s.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: setattr(net.model[1].bn, "eps", 1e-5), r"eps 1e-05 at model\.1\.bn"),
        (lambda net: setattr(net.model[1], "act", nn.ReLU()), r"ReLU at model\.1\.act"),
        (lambda net: setattr(net.model[1], "bn", nn.Identity()), r"model\.1\.bn.* missing"),
    ],
)
def test_checkpoints_that_compute_something_else_are_refused(
    u_checkpoint: dict[str, Any],
    tmp_path: Path,
    change: Callable[[nn.Module], None],
    message: str,
) -> None:
    net = copy.deepcopy(u_checkpoint["model"])
    change(net)
    torch.save({"model": net}, tmp_path / "u.pt")
    with pytest.raises(InputError, match=message):
        load_detector(tmp_path / "u.pt")


def test_a_wrong_number_of_names_is_refused(u_checkpoint: dict[str, Any], tmp_path: Path) -> None:
    torch.save(u_checkpoint, tmp_path / "u.pt")
    with pytest.raises(InputError, match="has 80 classes, expected the 2 of the data set"):
        load_detector(tmp_path / "u.pt", names=("a", "b"))
