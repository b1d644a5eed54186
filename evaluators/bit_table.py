"""What few bits of one layer alone cost: the table that mixed bits are chosen from.

Every convolution in turn gets rounded weights, everything else stays dense, and the outputs are
compared with those of the dense network (`evaluators.distortion.distortion`). Only what follows the
layer is run. The damage of many layers is taken to be the sum of theirs: the squares of errors that
know nothing of each other add up, and distortion is such a square. (The share of detections lost is
not: it grows about as the root.)

Axis letters: L layers in execution order, B bit widths, N images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.dense import for_inference
from evaluators.detection import detect
from evaluators.distortion import Reference, distortion, reference
from spaces.groups import Network
from spaces.model import Detector
from spaces.quantization.patches import patches, sample_positions
from spaces.quantization.rounding.auto import auto

MEASURED_BITS = (3, 4, 5)
POSITIONS = 8192
BATCH = 8

FloatArray = NDArray[np.float64]


@torch.no_grad()
def measure_damage(detector: Detector, network: Network, images: Tensor) -> FloatArray:
    """Measure the distortion that each layer's weights cause at each of `MEASURED_BITS`.

    Args:
        detector: The dense model; not changed.
        network: What `spaces.groups.analyse` found in it.
        images: [N, 3, H, W] in 0..1, unlabelled.

    Returns:
        Damage [L, B], 0 for none.
    """
    net = for_inference(copy.deepcopy(detector.net))
    names = [layer.name for layer in network.layers]
    inputs = _measure_inputs(net, names, images)
    maps = [_all_maps(net, batch) for batch in images.split(BATCH)]
    dense = [reference(each[-1], detect(each[-1])) for each in maps]
    table = np.zeros((len(names), len(MEASURED_BITS)))
    for row, name in enumerate(names):
        conv = cast("nn.Conv2d", net.get_submodule(name))
        weight, bias = conv.weight.data, conv.bias
        for column, bits in enumerate(MEASURED_BITS):
            rounded = _rounded(conv, inputs[name], bits)
            conv.weight.data = rounded
            lost = (weight - rounded).flatten(1) @ inputs[name].mean_F.repeat(conv.groups)
            assert bias is not None  # norms are folded
            conv.bias = nn.Parameter(bias + lost, requires_grad=False)
            table[row, column] = _distortion(net, _place(name), maps, dense)
            conv.weight.data, conv.bias = weight, bias
    return table


def extrapolated(table_LB: FloatArray, widths: Sequence[int]) -> FloatArray:
    """Return the damage at other widths, [L, len(widths)].

    Widths that were measured are taken as they are, made monotone; each bit beyond the widest
    quarters the damage, as it halves the error; each bit below the narrowest makes it fourfold.
    """
    monotone_LB = np.maximum.accumulate(table_LB[:, ::-1], axis=1)[:, ::-1]
    columns = []
    for bits in widths:
        measured = min(max(bits, MEASURED_BITS[0]), MEASURED_BITS[-1])
        factor = 4.0 ** (measured - bits)
        columns.append(monotone_LB[:, MEASURED_BITS.index(measured)] * factor)
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Mean [F] and covariance [F, F] of what a convolution reads (of a grouped one, all groups)."""

    mean_F: Tensor
    covariance_FF: Tensor


def _measure_inputs(net: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, _Inputs]:
    found: dict[str, _Inputs] = {}

    def note(name: str, conv: nn.Conv2d, x_NIHW: Tensor, y_NOHW: Tensor) -> None:
        chosen = sample_positions(len(x_NIHW), y_NOHW[0, 0].numel(), POSITIONS)
        x_PF = patches(conv, x_NIHW, chosen)
        if conv.groups > 1:
            x_PF = x_PF.view(len(x_PF), conv.groups, -1).flatten(0, 1)
        found[name] = _Inputs(x_PF.mean(0), torch.cov(x_PF.T, correction=0))

    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda conv, args, y, name=name: note(name, cast("nn.Conv2d", conv), args[0], y)
        )
        for name in names
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rounded(conv: nn.Conv2d, inputs: _Inputs, bits: int) -> Tensor:
    return auto(conv.weight, inputs.covariance_FF, bits).contiguous(
        memory_format=torch.channels_last
    )


def _distortion(
    net: nn.Module, place: int, maps: Sequence[list[Any]], dense: Sequence[Reference]
) -> float:
    total = images = 0.0
    for before, expected in zip(maps, dense, strict=True):
        output = _run_from(net, place, before)
        total += len(output) * distortion(output, expected)
        images += len(output)
    return total / images


def _place(name: str) -> int:
    """Return the number of the top-level layer that a module belongs to: `model.5.conv` is 5."""
    return int(name.split(".")[1])


def _all_maps(net: nn.Module, images: Tensor) -> list[Any]:
    """Return the images and then what every top-level layer writes."""
    maps: list[Any] = [images]
    for layer in cast("nn.Sequential", net.model):
        maps.append(layer(_read(layer, maps)))
    return maps


def _run_from(net: nn.Module, place: int, maps: list[Any]) -> Tensor:
    """Run a network from one top-level layer on, what comes before as in `maps`."""
    now = maps[: place + 1]
    for layer in cast("nn.Sequential", net.model)[place:]:
        now.append(layer(_read(layer, now)))
    return cast("Tensor", now[-1])


def _read(layer: nn.Module, maps: list[Any]) -> Any:
    """Return what a layer reads: `f` says which layers wrote it, -1 for the last one."""
    sources = cast("int | list[int]", layer.f)
    if isinstance(sources, int):
        return maps[sources] if sources < 0 else maps[sources + 1]
    return [maps[source] if source < 0 else maps[source + 1] for source in sources]
