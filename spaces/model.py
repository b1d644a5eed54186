"""A detector, and how it is loaded: from checkpoints, model YAMLs and safetensors files.

Whatever the source, the network is rebuilt from its model dictionary and the tensors are loaded
into it strictly: no code and no module of a checkpoint is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hw_models.errors import InputError
from spaces.architecture import activation_name, build, checked, read_yaml
from spaces.checkpoint import StandIn, read_checkpoint
from spaces.classic import ClassicModel

DEFAULT_IMGSZ = 640  # what YOLOv5 is trained at where a file does not say
BATCHNORM_EPS = 1e-3  # of every YOLOv5
FAMILIES = {"DetectionModel", "Model"}
MODULE_LIMIT = 20_000  # the largest YOLOv5 has about 1,000


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A trained network and what is needed to use it.

    Attributes:
        net: float32, eval mode. Maps images [B, 3, H, W] in 0..1 to one tensor [B, 4 + nc, A]:
            centre x, centre y, width, height in input pixels, then one score 0..1 a class. Its
            `.yaml` is the model dictionary it was built from.
        names: Class names, nc of them.
        imgsz: Input size in pixels that it was trained at.
    """

    net: nn.Module
    names: tuple[str, ...]
    imgsz: int

    @property
    def kind(self) -> Literal["u", "classic"]:
        """Whether boxes come from distances (ultralytics' u-models) or from anchors."""
        return "classic" if isinstance(self.net, ClassicModel) else "u"

    @property
    def digest(self) -> str:
        """SHA-256 over architecture and tensors: equal digests mean equal outputs."""
        hashed = hashlib.sha256(json.dumps(self.net.yaml, sort_keys=True).encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            hashed.update(tensor.contiguous().cpu().numpy().data)
        return hashed.hexdigest()


def load_detector(
    weights: str | Path,
    *,
    trust_checkpoint: bool = False,
    names: Sequence[str] | None = None,
) -> Detector:
    """Load a YOLOv5 detector.

    Args:
        weights: A `.pt` of ultralytics' YOLOv5u or of yolov5 v5.0 to v7.0, a model YAML
            (untrained; `yolov5n.yaml` and its like are known by name), or a `.safetensors` file
            of `save_detector`.
        trust_checkpoint: Let a `.pt` import and call whatever it names; see `read_checkpoint`.
        names: Class names that the model must have as many of as it has classes; a model YAML is
            given that many classes.

    Returns:
        The detector, on the CPU.

    Raises:
        InputError: If the file cannot be read, is refused, is no YOLOv5 detector, or has another
            number of classes than `names`.
    """
    path = Path(weights)
    if path.suffix in {".yaml", ".yml"}:
        detector = _from_yaml(path, names)
    elif path.suffix == ".safetensors":
        detector = _from_safetensors(path)
    else:
        detector = _from_checkpoint(path, trust_checkpoint)
    if names is None:
        return detector
    if len(names) != len(detector.names):
        raise InputError(
            f"{path} has {len(detector.names)} classes, expected the {len(names)} of the data set"
            f" ({', '.join(list(names)[:3])}, ...).",
            "Use weights that were trained for these classes, or the data set of these weights.",
        )
    return Detector(detector.net, tuple(names), detector.imgsz)


def save_detector(detector: Detector, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write an unsliced detector to a safetensors file that `load_detector` reads.

    Args:
        detector: Its tensors must have the shapes of its model dictionary.
        path: The file to write.
        dtype: Stored type of floating-point tensors; float16 halves the file.
    """
    tensors = {
        name: tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in detector.net.state_dict().items()
    }
    metadata = {
        "yaml": json.dumps(detector.net.yaml),
        "names": json.dumps(list(detector.names)),
        "imgsz": str(detector.imgsz),
    }
    save_file(tensors, path, metadata)


def _from_yaml(path: Path, names: Sequence[str] | None) -> Detector:
    architecture = read_yaml(path)
    if names is not None:
        architecture["nc"] = len(names)
    classes = tuple(f"class{index}" for index in range(architecture["nc"]))
    return Detector(build(architecture, f"The model YAML {path}"), classes, DEFAULT_IMGSZ)


def _from_safetensors(path: Path) -> Detector:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        architecture = json.loads(metadata["yaml"])
        names = json.loads(metadata["names"])
        imgsz = int(metadata["imgsz"])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(
            f"The weights {path} cannot be read: expected a safetensors file with the metadata"
            f" yaml, names and imgsz, got {type(error).__name__}: {error}.",
            "Write it with spaces.model.save_detector, or give a .pt checkpoint.",
        ) from error
    return _assemble(architecture, state, names, imgsz, f"The file {path}")


def _from_checkpoint(path: Path, trust: bool) -> Detector:
    origin = f"The checkpoint {path}"
    content = read_checkpoint(path, trust=trust)
    saved = content if isinstance(content, Mapping) else {}
    model = saved.get("ema") or saved.get("model")  # the averaged weights where they are kept
    if not isinstance(model, StandIn):
        raise InputError(
            f"{origin} holds no YOLOv5 model: expected a dictionary with a model under 'ema' or"
            f" 'model', got {_describe(content)}.",
            "Give the .pt file that ultralytics or yolov5 wrote, not a bare state dictionary.",
        )
    if model.origin.name not in FAMILIES:
        raise InputError(
            f"{origin} is a {model.origin}, expected the detection model of YOLOv5"
            " (ultralytics.nn.tasks.DetectionModel or models.yolo.Model).",
            "Segmentation, pose, classification and other families are not supported.",
        )
    architecture = checked(model.state.get("yaml"), origin)
    modules = dict(_modules(model, origin))
    _check_arithmetic(modules, activation_name(architecture), origin)
    # ultralytics keeps the settings of the training in `args` or `train_args`, yolov5 in `opt`.
    settings = (model.state.get("args"), saved.get("train_args"), saved.get("opt"))
    arguments = {key: value for part in settings for key, value in _mapping(part).items()}
    return _assemble(
        architecture,
        _state(modules),
        model.state.get("names") or range(architecture["nc"]),
        arguments.get("imgsz") or DEFAULT_IMGSZ,
        origin,
    )


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return "the keys " + ", ".join(repr(key) for key in list(content)[:5])
    return str(content.origin) if isinstance(content, StandIn) else type(content).__name__


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _modules(model: StandIn, origin: str) -> Iterator[tuple[str, StandIn]]:
    """Yield (dotted name with a trailing dot, module) for the model and everything inside it."""
    pending = [("", model)]
    visited = 0
    while pending:
        prefix, module = pending.pop()
        yield prefix, module
        visited += 1
        if visited > MODULE_LIMIT:
            raise InputError(
                f"{origin} has more than {MODULE_LIMIT} modules, expected about 200 to 1000.",
                "It is damaged or no YOLOv5; download it again.",
            )
        for name, child in _mapping(module.state.get("_modules")).items():
            if isinstance(child, StandIn):
                pending.append((f"{prefix}{name}.", child))


def _check_arithmetic(modules: Mapping[str, StandIn], activation: str, origin: str) -> None:
    """Refuse modules that compute something else than what the model dictionary builds."""
    for name, module in modules.items():
        found = ""
        if module.origin.name == "BatchNorm2d" and module.state.get("eps") != BATCHNORM_EPS:
            found = f"a batch norm with eps {module.state.get('eps')}"
        elif module.origin.module == "torch.nn.modules.activation":
            found = "" if module.origin.name == activation else f"the activation {module.origin}"
        if found:
            raise InputError(
                f"{origin} cannot be rebuilt: expected {activation} and a batch-norm eps of"
                f" {BATCHNORM_EPS} everywhere, got {found} at {name.rstrip('.')}.",
                "Load it with a release of yolov5 from v5.0 on and save it again.",
            )


def _state(modules: Mapping[str, StandIn]) -> dict[str, Tensor]:
    """Collect what `state_dict` would have returned."""
    state: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _mapping(module.state.get(kind)).items():
                if isinstance(tensor, Tensor):
                    state[f"{prefix}{name}"] = tensor
    return state


def _assemble(
    raw_architecture: Any, state: dict[str, Tensor], names: Any, imgsz: Any, origin: str
) -> Detector:
    """Build the network, load its tensors strictly, and check names and size."""
    architecture = checked(raw_architecture, origin)
    net = build(architecture, origin)
    _load_state(net, state, origin)
    values = names.values() if isinstance(names, Mapping) else names
    classes = tuple(str(name) for name in values)
    if len(classes) != architecture["nc"]:
        raise InputError(
            f"{origin} has {len(classes)} class names, expected {architecture['nc']} (its nc).",
            "Check the file's names.",
        )
    size = max(imgsz) if isinstance(imgsz, (list, tuple)) else imgsz
    return Detector(net, classes, int(size))


def _load_state(net: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    # v5.0 kept the anchors a second time, in pixels.
    state = {name: tensor for name, tensor in state.items() if not name.endswith(".anchor_grid")}
    expected = net.state_dict()
    wrong = [f"{name} missing" for name in expected.keys() - state.keys()]
    wrong += [f"{name} unexpected" for name in state.keys() - expected.keys()]
    wrong += [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    wrong += [f"{name} not finite" for name, x in state.items() if not x.isfinite().all()]
    if wrong:
        raise InputError(
            f"{origin} does not fit the model it describes: expected {len(expected)} tensors, got"
            f" {len(wrong)} that differ, first {min(wrong)}.",
            "Give weights as they were trained: not fused, not pruned, not quantised.",
        )
    net.load_state_dict(state)
