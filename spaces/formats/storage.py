"""What both formats for storage have in common: one safetensors file of coded weights.

Batch norms are folded. A few-bit weight is stored as its whole numbers and a step a channel;
how a weight of 16 bits is stored is the format's own matter. A reader gets the detector back, with
its activation grids, and can go on with it in torch or export it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hw_models.errors import InputError
from spaces.architecture import build, checked
from spaces.export import DEFAULT_BITS, folded, folded_integers
from spaces.formats.coding import decode, encode
from spaces.formats.interface import Compressed, Run
from spaces.model import Detector
from spaces.quantization.grid import ActivationScales, is_quantized, weight_range
from spaces.quantization.simulate import find_convolution, quantize
from spaces.sliced import take_shapes

FORMAT = "paretrim-storage-2"
UNROUNDED = 16


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A weight as whole numbers below 2^bits.

    A number n stands for values[n] steps, or n - offset where there are no values.

    Attributes:
        numbers: uint8, in the shape of the weight.
        bits: 1 to 8.
        steps: Of each output channel [O].
        values: [2^bits] at most.
        offset: What stands for zero where there are no values.
    """

    numbers: Tensor
    bits: int
    steps: Tensor
    values: Tensor | None = None
    offset: int = 0

    def weight(self) -> Tensor:
        """Return the weight, float32."""
        if self.values is None:
            levels = self.numbers.float() - self.offset
        else:
            levels = self.values.float()[self.numbers.long()]
        return levels * self.steps.float().view(-1, *[1] * (self.numbers.ndim - 1))


Coder = Callable[[Tensor], Coded | Tensor]
"""How a folded weight of 16 or more bits is stored: coded, or as the tensor that is returned."""


def write_stored(model: Compressed, path: Path, wide: Coder) -> None:
    """Write a detector.

    Args:
        model: What to write.
        path: The file.
        wide: See `Coder`.
    """
    net = folded(model.detector.net)
    tensors: dict[str, Tensor] = {}
    codes: dict[str, dict[str, Any]] = {}
    for name, tensor in net.state_dict().items():
        stored = _stored(model, net, name, tensor, wide)
        if isinstance(stored, Tensor):
            tensors[name] = stored.contiguous()
            continue
        data, coding = encode(stored.numbers.numpy().ravel(), stored.bits)
        tensors[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tensors[f"{name}:steps"] = stored.steps.contiguous()
        if stored.values is not None:
            tensors[f"{name}:values"] = stored.values.contiguous()
        shape = list(stored.numbers.shape)
        codes[name] = {
            "coding": coding, "bits": stored.bits, "offset": stored.offset, "shape": shape,
        }  # fmt: skip
    metadata = {
        "format": FORMAT,
        "yaml": json.dumps(model.detector.net.yaml),
        "names": json.dumps(list(model.detector.names)),
        "imgsz": str(model.imgsz),
        "codes": json.dumps(codes),
        "act_bits": json.dumps({name: act for name, (_, act) in model.bits.items()}),
        "scales": json.dumps(model.scales and model.scales.to_dict()),
    }
    save_file(tensors, path, metadata)


def _stored(
    model: Compressed, net: nn.Module, name: str, tensor: Tensor, wide: Coder
) -> Coded | Tensor:
    layer, _, part = name.rpartition(".")
    if part != "weight" or not isinstance(net.get_submodule(layer), nn.Conv2d):
        return tensor
    bits, _ = model.bits.get(layer, DEFAULT_BITS)
    if is_quantized(bits):
        conv = find_convolution(model.detector.net, layer)
        integers, steps = folded_integers(conv, tensor, bits)
        low, _ = weight_range(bits)
        return Coded((integers - low).to(torch.uint8), bits, steps, offset=-low)
    return tensor if bits >= 32 else wide(tensor)


def load_stored(path: Path) -> Detector:
    """Load what `write_stored` wrote: a network that computes with the stored numbers.

    Raises:
        InputError: The file is something else, or damaged.
    """
    origin = f"The file {path}"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')}")
        net = folded(build(checked(json.loads(metadata["yaml"]), origin), origin))
        state = _decoded(tensors, json.loads(metadata["codes"]))
        take_shapes(net, state)
        net.load_state_dict(state)
        _round_inputs(net, metadata)
        names, imgsz = tuple(json.loads(metadata["names"])), int(metadata["imgsz"])
    except InputError:
        raise
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
            safetensors.SafetensorError) as error:  # fmt: skip
        raise InputError(
            f"{origin} cannot be read: expected a file of `paretrim export --format packed` or"
            f" `shared`, got {type(error).__name__}: {str(error).splitlines()[0]}.",
            "Export it again.",
        ) from error
    return Detector(net.requires_grad_(False).eval(), names, imgsz)


def _decoded(
    tensors: Mapping[str, Tensor], codes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return the state of a folded network."""
    state = {}
    for name, tensor in tensors.items():
        if name in codes:
            code = codes[name]
            shape = [int(length) for length in code["shape"]]
            count = int(np.prod(shape))
            numbers = decode(tensor.numpy().tobytes(), code["coding"], int(code["bits"]), count)
            state[name] = Coded(
                torch.from_numpy(numbers.copy()).view(shape),
                int(code["bits"]),
                tensors[f"{name}:steps"],
                tensors.get(f"{name}:values"),
                int(code["offset"]),
            ).weight()
        elif ":" not in name:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _round_inputs(net: nn.Module, metadata: Mapping[str, str]) -> None:
    scales = json.loads(metadata["scales"])
    bits = {name: (UNROUNDED, int(act)) for name, act in json.loads(metadata["act_bits"]).items()}
    quantize(net, bits, None if scales is None else ActivationScales.from_dict(scales))


def run_stored(path: Path) -> Run:
    """Return a function that detects with a stored file."""
    net = load_stored(path).net

    @torch.inference_mode()
    def run(image: Any) -> Any:
        return net(torch.from_numpy(image)).numpy()

    return run
