"""The integer grid of a bit width, rounding to it, and the clips of a network's activations.

A symmetric grid of b bits with clip c has the step c / (2^(b-1) - 1) and all integers that b bits
have, -2^(b-1) ... 2^(b-1) - 1, as in ONNX and TensorRT. The one more below matters where there are
few: of 3 bits it is an eighth. Weights of 8 bits do without: there it is nothing.

Behind a convolution, a batch norm with a negative scale would mirror that range when it is folded.
So the rows of its channels are rounded mirrored (`grid_signs`), and are on the grid once folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hw_models.errors import InputError

QUANTIZED_BITS = range(2, 9)
"""Bit widths that have an integer grid; a layer at 16 or 32 bits is left as it is."""

WHOLE = 1e-3  # of a step: rounding errors of float32 are below it, and a weight by chance is not
TINY_STEP = 1e-30
PROBED_WEIGHTS = 3  # so many of a row are looked at first: hardly any row is on a grid by chance


def largest_integer(bits: int) -> int:
    """Return the largest integer of a signed grid of `bits` bits."""
    return 2 ** (bits - 1) - 1


def weight_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest integer of a weight of `bits` bits."""
    top = largest_integer(bits)
    return (-top if bits == 8 else -top - 1), top


def is_quantized(bits: int) -> bool:
    """Tell whether `bits` asks for an integer grid.

    Raises:
        InputError: If `bits` is neither 2 to 8 nor 16 or more.
    """
    if bits in QUANTIZED_BITS:
        return True
    if bits >= 16:
        return False
    raise InputError(
        f"A layer cannot have {bits} bits: expected 2 to 8 (an integer grid) or 16 (untouched).",
        "Choose other --bits or --act-bits.",
    )


def round_activations(x: Tensor, scale: float, bits: int) -> Tensor:
    """Round a tensor of any shape to the grid of `bits` bits with step `scale`."""
    top = largest_integer(bits)
    return (x / scale).round_().clamp_(-top - 1, top).mul_(scale)


def integer_weights(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Round weights to integers.

    Args:
        weight: [O, I, kh, kw].
        scales: Step of each output channel [O].
        bits: 2 to 8.

    Returns:
        Whole numbers, float32, in the shape of `weight`.
    """
    return (weight / scales.view(-1, 1, 1, 1)).round().clamp(*weight_range(bits))


def steps_on_grid(rows_ON: Tensor, bits: int) -> Tensor:
    """Find the grid of rows that have been rounded before.

    Args:
        rows_ON: Weights of each output channel.
        bits: 2 to 8.

    Returns:
        Steps [O] with which all weights of the row are whole numbers of the grid; 0 for a row of
        zeros and one that is on no grid.
    """
    magnitudes_ON = rows_ON.detach().abs()
    peaks_O, highest_O = magnitudes_ON.amax(1), rows_ON.detach().amax(1)
    low, top = weight_range(bits)
    integers_K = torch.arange(-low, 0, -1, device=rows_ON.device)  # what the peak may have become
    trials_KO = peaks_O / integers_K[:, None]
    probe_On = magnitudes_ON[:, :: -(-magnitudes_ON.shape[1] // PROBED_WEIGHTS)]
    likely_KO = _whole(probe_On, trials_KO) & (peaks_O > 0) & (highest_O < trials_KO * (top + 0.5))
    steps_O = torch.zeros_like(peaks_O)
    for trial in likely_KO.any(1).nonzero().flatten().tolist():
        trial_O, likely_O = trials_KO[trial], likely_KO[trial] & (steps_O == 0)
        likely_O[likely_O.clone()] = _whole(magnitudes_ON[likely_O], trial_O[likely_O])
        steps_O = torch.where(likely_O, trial_O, steps_O)
    return steps_O


def _whole(magnitudes_ON: Tensor, steps_O: Tensor) -> Tensor:
    """Tell for each row whether its weights are multiples of its step; steps may be [K, O]."""
    multiples = magnitudes_ON / steps_O[..., None].clamp_min(TINY_STEP)
    return (multiples - multiples.round()).abs().amax(-1) < WHOLE


@dataclass(frozen=True, slots=True)
class ActivationScales:
    """Clips of the inputs of all convolutions, for every bit width.

    Found once on the dense network; they hold for every sliced version, whose activations are a
    part of the dense ones.

    Attributes:
        groups: For each convolution the group of its input; a group shares one scale.
        clips: For each group the clip at each bit width of `QUANTIZED_BITS`.
    """

    groups: Mapping[str, int]
    clips: Mapping[int, Mapping[int, float]]

    def scale(self, layer: str, bits: int) -> float:
        """Return the step of the grid for the input of `layer`.

        Raises:
            InputError: If the network that was calibrated has no such convolution.
        """
        if layer not in self.groups:
            raise InputError(
                f"The layer {layer} has no activation scale: expected one of the"
                f" {len(self.groups)} convolutions that were calibrated"
                f" ({', '.join(list(self.groups)[:3])}, ...).",
                "Calibrate the network that is quantised.",
            )
        return self.clips[self.groups[layer]][bits] / largest_integer(bits)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        clips = {
            str(group): {str(b): c for b, c in row.items()} for group, row in self.clips.items()
        }
        return {"groups": dict(self.groups), "clips": clips}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActivationScales:
        """Restore what `to_dict` returned."""
        clips = {
            int(g): {int(b): float(c) for b, c in r.items()} for g, r in values["clips"].items()
        }
        return cls({str(layer): int(g) for layer, g in values["groups"].items()}, clips)


def input_scale(scales: ActivationScales | None, layer: str, bits: int) -> float:
    """Return the step of the grid for the input of `layer`.

    Raises:
        InputError: If there are no scales, or none for this layer.
    """
    if scales is None:
        raise InputError(
            f"The layer {layer} is to have {bits}-bit activations, but there are no activation"
            " scales.",
            "Calibrate with spaces.quantization.calibrate_activations first.",
        )
    return scales.scale(layer, bits)
