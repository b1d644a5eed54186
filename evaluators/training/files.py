"""A trained, really smaller detector in one safetensors file, with the grids of its layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import safetensors
from safetensors.torch import save_file

from evaluators.training.method import Grids
from evaluators.training.trainer import Trained
from hw_models.errors import InputError
from spaces.architecture import build, checked
from spaces.model import Detector
from spaces.quantization.grid import ActivationScales
from spaces.sliced import take_shapes

FORMAT = "paretrim-trained-1"


def save_trained(trained: Trained, path: Path) -> None:
    """Write what a training ended with to a file that `load_trained` reads."""
    detector, grids = trained.detector, trained.grids
    metadata = {
        "format": FORMAT,
        "yaml": json.dumps(detector.net.yaml),
        "names": json.dumps(list(detector.names)),
        "imgsz": str(detector.imgsz),
        "bits": json.dumps(grids.bits),
        "scales": json.dumps(grids.scales and grids.scales.to_dict()),
    }
    state = {name: tensor.contiguous() for name, tensor in detector.net.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata)
    part.replace(path)


def load_trained(path: Path) -> Trained:
    """Load what `save_trained` wrote.

    Raises:
        InputError: If the file is something else, or its tensors do not fit its network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')}")
        architecture = checked(json.loads(metadata["yaml"]), f"The file {path}")
        net = build(architecture, f"The file {path}")
        take_shapes(net, state)
        net.load_state_dict(state)
        scales = json.loads(metadata["scales"])
        bits = {name: (int(w), int(a)) for name, (w, a) in json.loads(metadata["bits"]).items()}
        detector = Detector(net, tuple(json.loads(metadata["names"])), int(metadata["imgsz"]))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"The trained model {path} cannot be read: expected a safetensors file of"
            f" `paretrim recover`, got {type(error).__name__}: {str(error).splitlines()[0]}.",
            "Recover the point again.",
        ) from error
    grids = Grids(bits, None if scales is None else ActivationScales.from_dict(scales))
    return Trained(replace(detector, net=net.requires_grad_(False).eval()), grids)
