"""Turn a candidate into a really smaller model.

A channel is kept or removed everywhere at once: in the convolution that writes it, in the batch
norm behind it and in every convolution that reads it. `Network` has the channel number of every
row and column of every weight, so compressing is copying the model and slicing its tensors by one
boolean array over channel numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hw_models.errors import InputError
from hw_models.workload import ConvShape
from spaces.candidate import Candidate
from spaces.groups import Network, check_imgsz
from spaces.model import Detector
from spaces.sliced import copied, drop_block
from spaces.trace import IntArray

Ranking = Mapping[str, IntArray]
"""For each group, its channels from the most to the least important."""


def compress(
    detector: Detector, network: Network, candidate: Candidate, ranking: Ranking
) -> Detector:
    """Remove the channels that a candidate does not keep.

    A residual block without channels inside hands on its input. Bits and patterns are applied
    elsewhere. Kept channels stay in their order, so that a candidate that keeps all has bit for bit
    the outputs of the dense model.

    Args:
        detector: The dense model; it is not changed.
        network: What `analyse` found in it.
        candidate: How many channels to keep; `imgsz` becomes the result's.
        ranking: Which channels to keep, from `spaces.saliency.rank`.

    Returns:
        A smaller model that shares no tensor with `detector`.

    Raises:
        InputError: The candidate names an unknown group, keeps too many or too few channels, or has
            an image size that does not fit; or the ranking does not fit the groups.
    """
    net = copied(detector.net)
    cut(net, network, candidate, ranking)
    return replace(detector, net=net, imgsz=candidate.imgsz)


def cut(net: nn.Module, network: Network, candidate: Candidate, ranking: Ranking) -> None:
    """Remove the channels that a candidate does not keep from a network, in place.

    Args:
        net: Of the dense shapes, whatever its weights.
        network: See `compress`.
        candidate: See `compress`.
        ranking: See `compress`.

    Raises:
        InputError: See `compress`.
    """
    kept = kept_channels(network, candidate, ranking)
    left = _drop_blocks(net, network, candidate)
    for conv, reads, writes in _convs(net, left):
        _slice_conv(conv, _indices(kept, reads), _indices(kept, writes))
    modules = dict(net.named_modules())
    for name, channels in left.norms.items():
        _slice_norm(cast("nn.BatchNorm2d", modules[name]), _indices(kept, channels))


def mask(detector: Detector, network: Network, candidate: Candidate, ranking: Ranking) -> Detector:
    """Silence the channels that a candidate does not keep, with all shapes as they were.

    Convolution and batch norm of a removed channel become zero, and with f(0) = 0 for every
    activation of the YOLOv5 family so does what others read of it: the outputs are those of
    `compress` up to rounding.

    Args:
        detector: See `compress`.
        network: See `compress`.
        candidate: See `compress`.
        ranking: See `compress`.

    Raises:
        InputError: See `compress`.
    """
    kept = kept_channels(network, candidate, ranking)
    net = copied(detector.net)
    left = _drop_blocks(net, network, candidate)
    modules: list[tuple[nn.Module, IntArray]] = [
        (conv, writes) for conv, _, writes in _convs(net, left)
    ]
    modules += [(net.get_submodule(name), channels) for name, channels in left.norms.items()]
    for module, channels in modules:
        removed = torch.from_numpy(~kept[channels])
        for parameter in module.parameters(recurse=False):
            parameter.data[removed] = 0.0
    return replace(detector, net=net, imgsz=candidate.imgsz)


def kept_channels(
    network: Network, candidate: Candidate, ranking: Ranking
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for each channel number whether a candidate keeps it; `FIXED` (-1) is kept.

    Raises:
        InputError: See `compress`.
    """
    check_imgsz(candidate.imgsz, network.stride)
    counts = network.counts(candidate)
    kept = np.zeros(int(network.sizes.sum()) + 1, dtype=np.bool_)
    kept[-1] = True
    for group, offset, count in zip(network.groups, network.offsets, counts, strict=True):
        order = ranking.get(group.name)
        if order is None or not np.array_equal(np.sort(order), np.arange(group.size)):
            raise InputError(
                f"The ranking does not order the {group.size} channels of group {group.name}.",
                "Rank the channels of the same model with spaces.saliency.rank.",
            )
        kept[offset + order[:count]] = True
    return kept


def _drop_blocks(net: nn.Module, network: Network, candidate: Candidate) -> Network:
    """Drop the blocks that a candidate does without, in place, and return what is left."""
    for block in network.dropped(candidate):
        drop_block(net, block)
    return network.of(candidate)


def _convs(net: nn.Module, network: Network) -> Iterator[tuple[nn.Conv2d, IntArray, IntArray]]:
    modules = dict(net.named_modules())
    for step, reads, writes in zip(network.steps, network.reads, network.writes, strict=True):
        if isinstance(step, ConvShape):
            yield cast("nn.Conv2d", modules[step.name]), reads, writes


def _indices(kept: np.ndarray[tuple[int], np.dtype[np.bool_]], channels: IntArray) -> Tensor:
    return torch.from_numpy(np.flatnonzero(kept[channels]))


def _slice_conv(conv: nn.Conv2d, reads: Tensor, writes: Tensor) -> None:
    depthwise = conv.groups > 1
    _slice(conv, "weight", 0, writes)
    _slice(conv, "bias", 0, writes)
    if not depthwise:
        _slice(conv, "weight", 1, reads)
    conv.in_channels, conv.out_channels = len(reads), len(writes)
    conv.groups = conv.in_channels if depthwise else 1


def _slice_norm(norm: nn.BatchNorm2d, channels: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _slice(norm, name, 0, channels)
    norm.num_features = len(channels)


def _slice(module: nn.Module, name: str, axis: int, indices: Tensor) -> None:
    tensor = getattr(module, name)
    if tensor is None or len(indices) == tensor.shape[axis]:
        return
    sliced = tensor.detach().index_select(axis, indices.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        sliced = nn.Parameter(sliced, requires_grad=tensor.requires_grad)
    setattr(module, name, sliced)
