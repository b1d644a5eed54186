"""Start where a candidate first differs from the dense model, instead of at the picture.

A candidate that moves a single variable has the dense model's layers before it, and so its maps. A
YOLOv5 is a list of numbered layers, each of which reads the one before it or others by their
numbers: what the dense model's layers write is kept, and the candidate runs from its first change
on. A move of a single variable leaves half of the multiply-accumulates before it, more or less.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from spaces.candidate import Candidate
from spaces.groups import Network
from spaces.quantization.grid import is_quantized

Maps = dict[int, Tensor]
"""What layers write, by their numbers."""

FIRST = 3
"""No candidate starts before it: the first maps are the largest, and little lies before them."""


def first_change(network: Network, candidate: Candidate) -> int:
    """Return the number of the first layer that differs from the dense one, the last if none does.

    Args:
        network: What `spaces.groups.analyse` found in the dense network.
        candidate: What is kept.

    Raises:
        InputError: See `Network.counts`.
    """
    counts = network.counts(candidate)
    changed = [
        member
        for group, count in zip(network.groups, counts, strict=True)
        if count < group.size
        for member in group.members
    ]
    changed += [name for name, *bits in candidate.bits if any(map(is_quantized, bits))]
    changed += [name for name, pattern in candidate.patterns if pattern != "dense"]
    return min(map(_number, changed), default=max(_number(x.name) for x in network.layers))


def _number(name: str) -> int:
    """Return the number of the layer that a module is part of: 8 for model.8.m.0.cv1.conv."""
    return int(name.split(".")[1])


@torch.inference_mode()
def dense_maps(net: nn.Module, images: Tensor) -> Maps:
    """Return what a candidate that starts at `FIRST` or later may read.

    Args:
        net: The dense network, prepared as candidates are for being scored.
        images: [B, 3, S, S] in 0..1.
    """
    maps: Maps = {}
    _run(net, 0, images, maps)
    last = max(maps)
    return {number: x for number, x in maps.items() if FIRST - 1 <= number < last}


@torch.inference_mode()
def run_from(net: nn.Module, start: int, maps: Maps) -> Tensor:
    """Run a network from a layer on, at least `FIRST`.

    Args:
        net: Equal to the dense network before that layer.
        start: The layer's number.
        maps: Of the dense network.

    Returns:
        The outputs [B, 4 + C, A].
    """
    return _run(net, start, maps[start - 1], dict(maps))


def _run(net: nn.Module, start: int, x: Tensor, maps: Maps) -> Tensor:
    """Run the layers from a number on and note what they write."""
    layers = cast("list[Any]", net.model)
    for layer in layers[start:]:
        sources = layer.f
        if isinstance(sources, int):
            x = layer(x if sources == -1 else maps[sources])
        else:
            x = layer([x if source == -1 else maps[source] for source in sources])
        maps[layer.i] = x
    return x
