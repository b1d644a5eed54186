"""Check a YOLOv5 model dictionary and build the network it describes.

A model dictionary is what a model YAML of ultralytics or yolov5 holds, and what their checkpoints
carry along: rows [from, number, module, arguments] of `backbone` and `head`. It may come from a
stranger's file, and ultralytics evaluates parts of it as Python, so that only what is listed
here passes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import ultralytics
import yaml
from torch import nn
from ultralytics.nn.tasks import BaseModel, DetectionModel

from hw_models.errors import InputError
from spaces.classic import ClassicModel

MODULES = {"Conv", "C3", "Bottleneck", "SPP", "SPPF", "Focus", "Concat", "nn.Upsample", "Detect"}
ACTIVATION = re.compile(
    r"(?:torch\.)?nn\.(?:SiLU|ReLU6?|LeakyReLU|Hardswish)\((?:inplace=True|0?\.\d+)?\)"
)
WORDS = {"nc", "anchors", "None", "True", "False", "nearest"}
KEYS = (
    "nc",
    "scale",
    "scales",
    "depth_multiple",
    "width_multiple",
    "activation",
    "reg_max",
    "anchors",
    "backbone",
    "head",
)
STOCK_NAME = re.compile(r"yolov5([nsmlx])(?:6|-p6)?\.yaml")
UNTRAINED_SEED = 0


def checked(raw: Any, origin: str) -> dict[str, Any]:
    """Copy the parts of a model dictionary that describe a YOLOv5 detector, and nothing else.

    Args:
        raw: The dictionary as found.
        origin: Where it was found, for messages.

    Returns:
        A deep copy with the keys of `KEYS` that are present.

    Raises:
        InputError: If it does not describe a YOLOv5 detector made of `MODULES`.
    """
    if not isinstance(raw, Mapping) or not {"backbone", "head", "nc"} <= raw.keys():
        raise _unsupported(origin, "no model dictionary with backbone, head and nc")
    architecture = {key: copy.deepcopy(raw[key]) for key in KEYS if raw.get(key) is not None}
    if raw.get("end2end") or raw.get("ch", 3) != 3 or raw.get("channels", 3) != 3:
        raise _unsupported(origin, "a head without NMS, or other than 3 input channels")
    if type(architecture["nc"]) is not int or architecture["nc"] < 1:
        raise _unsupported(origin, f"nc: {architecture['nc']!r}")
    if not ACTIVATION.fullmatch(str(architecture.get("activation", "nn.SiLU()"))):
        raise _unsupported(origin, f"the activation {architecture['activation']!r}")
    rows = [*architecture["backbone"], *architecture["head"]]
    for row in rows:
        _check_row(row, origin)
    if [row[2] for row in rows].count("Detect") != 1 or rows[-1][2] != "Detect":
        raise _unsupported(origin, f"{rows[-1][2]} as its last module, where Detect belongs")
    return architecture


def _check_row(row: Any, origin: str) -> None:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
        raise _unsupported(origin, f"the row {row!r}, not [from, number, module, arguments]")
    sources, number, module, arguments = row
    if module not in MODULES:
        raise _unsupported(origin, f"the module {module!r}")
    indices = sources if isinstance(sources, list) else [sources]
    if not all(type(value) is int for value in [*indices, number]):
        raise _unsupported(origin, f"the row {row!r}, whose numbers are no integers")
    words = {value for value in arguments if isinstance(value, str)}
    if not words <= WORDS:
        raise _unsupported(origin, f"the argument {min(words - WORDS)!r} of {module}")


def _unsupported(origin: str, found: str) -> InputError:
    return InputError(
        f"{origin} does not describe a YOLOv5 detector that can be compressed: expected a Detect"
        f" head on layers from {', '.join(sorted(MODULES))}, got {found}.",
        "Use a detection model of the YOLOv5 family (yolov5n to yolov5x, with or without 'u');"
        " segmentation, pose, classification and other families are not supported.",
    )


def activation_name(architecture: Mapping[str, Any]) -> str:
    """Name the class of the activation that every `Conv` of the network uses."""
    constructor = str(architecture.get("activation", "nn.SiLU()")).partition("(")[0]
    return constructor.rpartition(".")[2]


def build(architecture: dict[str, Any], origin: str) -> nn.Module:
    """Build the network of a checked model dictionary, with weights drawn from a fixed seed.

    Args:
        architecture: What `checked` returned; with `anchors` it is a classic YOLOv5.
        origin: Where it was found, for messages.

    Returns:
        A float32 network in eval mode: images [B, 3, H, W] in 0..1 to [B, 4 + nc, A]. It keeps
        the dictionary as `.yaml`.

    Raises:
        InputError: If the rows do not fit together.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNTRAINED_SEED)
            net = _construct(copy.deepcopy(architecture))
    except Exception as error:  # whatever a wrong row makes a constructor raise
        raise _unsupported(origin, f"rows that do not fit ({error})") from error
    net.yaml = architecture  # ultralytics adds keys to its own
    return net.eval().requires_grad_(False)


def _construct(architecture: dict[str, Any]) -> BaseModel:
    if "anchors" in architecture:
        return ClassicModel(architecture)
    net = DetectionModel(architecture, verbose=False)
    net.model[-1].export = True  # return the decoded tensor alone
    return net


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a model YAML: a file, or one of ultralytics' own by its name (yolov5n.yaml).

    Args:
        path: The file; where its name ends like yolov5s.yaml and the file has `scales`, the
            letter chooses the scale.

    Returns:
        The checked model dictionary.

    Raises:
        InputError: If there is no such file, it is no YAML or describes no YOLOv5 detector.
    """
    stock = STOCK_NAME.fullmatch(path.name)
    source = path
    if not path.exists() and path.parent == Path() and stock:
        stock_folder = Path(ultralytics.__file__).parent / "cfg" / "models" / "v5"
        source = stock_folder / ("yolov5-p6.yaml" if "6" in path.stem else "yolov5.yaml")
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"The model YAML {path} cannot be read: expected a YAML file or a stock name such as"
            f" yolov5n.yaml, got {error}.",
            "Check the path given with --weights.",
        ) from error
    if isinstance(raw, dict) and "scales" in raw and not raw.get("scale"):
        raw["scale"] = stock[1] if stock else next(iter(raw["scales"]))
    return checked(raw, f"The model YAML {path}")
