"""What may be pruned: groups of channels, and what keeping some of them does to every layer.

Channels that meet in an addition or a depthwise convolution must be kept or removed together; such
channels form a group. torch-pruning's DependencyGraph (Fang et al., DepGraph, CVPR 2023,
arXiv 2301.12900) finds which convolutions are coupled; `spaces.trace` says which channels each
step reads and writes. Together: every channel of every step has one *channel number*, that of a
group's channel, or `FIXED`. From these numbers follow both the widths of all layers for any kept
channels (`Network.widths`) and the slices of all weights (`spaces.compress`).

The channels between the two convolutions of a residual block may all be removed: then the block
hands on its input and is dropped as a whole (`Network.of`). That is how depth varies.

Fixed are the picture's channels, what no convolution reads (the outputs of Detect), and the outputs
of ignored layers.

Axis letters: N candidates, G groups, S steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from torch import nn
from ultralytics.nn.modules.block import Bottleneck

from hw_models.errors import InputError
from hw_models.workload import ConvShape, OtherOp
from spaces.candidate import Candidate, check_names
from spaces.ignore import ignored_layers
from spaces.model import Detector
from spaces.trace import TRACE_IMGSZ, IntArray, Trace, trace

FIXED = -1
"""The channel number of a channel that is always kept."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are kept or removed together.

    Args:
        name: The first convolution that writes them, without a trailing `.conv`.
        size: Number of channels.
        members: The convolutions that write them, in execution order.
        block: The residual block that they are inside of, as a module's name: without them it adds
            nothing to its input, so none of them may be kept. Empty for others: one must be left.
    """

    name: str
    size: int
    members: tuple[str, ...]
    block: str = ""

    @property
    def least(self) -> int:
        """The smallest number of channels that can be kept."""
        return 0 if self.block else 1


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The layers of a detector, its channel groups, and how the former depend on the latter.

    Args:
        imgsz: Rows and columns of the picture that `steps` are given for.
        stride: Every picture size must be a multiple of it.
        steps: Convolutions and other ops of the dense network in execution order.
        groups: What may be pruned.
        ignored: Convolutions to be left alone: their output channels stay, and their bits but for
            those of `outputs`.
        outputs: Those of them that only are there because they are Detect's: no user named them.
        reads: For each step, the channel number of every channel it reads.
        writes: For each step, the channel number of every channel it writes.
        norms: For each batch norm, by module name, the channel number of every channel.
        readers: For each step, the convolutions (as steps) that read what it wrote.
        writers: For each other op, the convolutions (as steps) that wrote what it reads.
    """

    imgsz: int
    stride: int
    steps: tuple[ConvShape | OtherOp, ...]
    groups: tuple[ChannelGroup, ...]
    ignored: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[IntArray, ...]
    writes: tuple[IntArray, ...]
    norms: dict[str, IntArray]
    readers: tuple[tuple[int, ...], ...]
    writers: tuple[tuple[int, ...], ...]

    @property
    def layers(self) -> tuple[ConvShape, ...]:
        """The convolutions in execution order."""
        return tuple(step for step in self.steps if isinstance(step, ConvShape))

    @property
    def sizes(self) -> IntArray:
        """Dense number of channels of each group [G]."""
        return np.array([group.size for group in self.groups], dtype=np.int64)

    @property
    def offsets(self) -> IntArray:
        """Channel number of each group's channel 0 [G]."""
        return np.cumsum(self.sizes) - self.sizes

    def counts(self, candidate: Candidate) -> IntArray:
        """Return how many channels of each group a candidate keeps [G].

        Raises:
            InputError: It names an unknown group, names one twice, or keeps a number of channels
                that is not in least..size.
        """
        names = [group.name for group in self.groups]
        check_names("channel group", [name for name, _ in candidate.kept], names)
        kept = dict(candidate.kept)
        counts = [kept.get(group.name, group.size) for group in self.groups]
        for group, count in zip(self.groups, counts, strict=True):
            if not group.least <= count <= group.size:
                raise InputError(
                    f"Group {group.name} has {group.size} channels; expected to keep {group.least} "
                    f"to {group.size} of them, got {count}."
                )
        return np.array(counts, dtype=np.int64)

    def steps_in(self, block: str) -> npt.NDArray[np.bool_]:
        """Tell which steps are part of a block [S]."""
        return np.array([step.name.startswith(f"{block}.") for step in self.steps], dtype=np.bool_)

    def dropped(self, candidate: Candidate) -> tuple[str, ...]:
        """Return the residual blocks that a candidate keeps no channels inside of.

        Raises:
            InputError: See `counts`.
        """
        counts = self.counts(candidate)
        pairs = zip(self.groups, counts, strict=True)
        return tuple(group.block for group, count in pairs if count == 0)

    def of(self, candidate: Candidate) -> Network:
        """Return the network whose channels a candidate chooses from: without dropped blocks.

        Raises:
            InputError: See `counts`.
        """
        dropped = self.dropped(candidate)
        if not dropped:
            return self
        gone = np.any([self.steps_in(block) for block in dropped], axis=0)
        left = np.flatnonzero(~gone)
        number = np.cumsum(~gone) - 1  # of each step that is left
        inside = tuple(f"{block}." for block in dropped)

        def renumbered(related: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
            return tuple(
                tuple(int(number[other]) for other in related[step] if not gone[other])
                for step in left
            )

        return replace(
            self,
            steps=tuple(self.steps[step] for step in left),
            reads=tuple(self.reads[step] for step in left),
            writes=tuple(self.writes[step] for step in left),
            norms={
                name: channels
                for name, channels in self.norms.items()
                if not name.startswith(inside)
            },
            readers=renumbered(self.readers),
            writers=renumbered(self.writers),
        )

    def widths(self) -> tuple[ChannelMap, ChannelMap]:
        """Return the channels read and written by each step as functions of kept channels."""
        return _channel_map(self.reads, self.sizes), _channel_map(self.writes, self.sizes)

    def steps_at(self, imgsz: int) -> tuple[ConvShape | OtherOp, ...]:
        """Return the dense steps for pictures of another size.

        Raises:
            InputError: The size is no positive multiple of `stride`.
        """
        check_imgsz(imgsz, self.stride)
        return tuple(_rescaled(step, imgsz, self.imgsz) for step in self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelMap:
    """Channels of each step [N, S] = constant [S] + kept channels [N, G] @ factors [G, S]."""

    constant: IntArray
    factors: IntArray

    def __call__(self, kept_NG: IntArray) -> IntArray:
        """Return the channels of each step [N, S]."""
        # Floating-point products of matrices are fast, and exact for counts below 2**24.
        product = kept_NG.astype(np.float32) @ self.factors.astype(np.float32)
        product += self.constant
        return product.astype(np.int64)

    def of(self, steps: npt.NDArray[np.bool_]) -> ChannelMap:
        """Return the map of some of the steps only."""
        return ChannelMap(self.constant[steps], self.factors[:, steps])


def analyse(detector: Detector, imgsz: int, ignore: Sequence[str] = ()) -> Network:
    """Find a detector's layers and channel groups.

    Args:
        detector: The dense model; it is not changed.
        imgsz: Rows and columns of the pictures, a multiple of the model's largest stride.
        ignore: Layers to be left alone, each given as a module's name (with all that is in it),
            as `re:REGEX` searched for in module names, or as `type:CLASS`.

    Returns:
        The network; Detect's output convolutions are always among the ignored layers.

    Raises:
        InputError: `imgsz` does not fit, an `ignore` matches no convolution, or the network has
            layers that cannot be handled.
    """
    net = copy.deepcopy(detector.net)
    traced = trace(net)
    check_imgsz(imgsz, traced.stride)
    outputs, named = _unread(traced), ignored_layers(net, ignore)
    ignored = outputs | named
    groups, channel_of_source = _couple(net, traced, ignored)
    return Network(
        imgsz=imgsz,
        stride=traced.stride,
        steps=tuple(_rescaled(step, imgsz, TRACE_IMGSZ) for step in traced.steps),
        groups=groups,
        ignored=_ordered(traced, ignored),
        outputs=_ordered(traced, outputs - named),
        reads=tuple(channel_of_source[sources] for sources in traced.reads),
        writes=tuple(channel_of_source[sources] for sources in traced.writes),
        norms={name: channel_of_source[sources] for name, sources in traced.norms.items()},
        readers=traced.readers,
        writers=traced.writers,
    )


def check_imgsz(imgsz: int, stride: int) -> None:
    """Refuse a picture size that the network's maps do not fit.

    Raises:
        InputError: It is no positive multiple of `stride`.
    """
    if imgsz <= 0 or imgsz % stride:
        nearest = max(1, round(imgsz / stride)) * stride
        raise InputError(
            f"Image size {imgsz} does not fit the model: expected a positive multiple of its "
            f"largest stride {stride}.",
            f"The nearest is {nearest}.",
        )


def _ordered(traced: Trace, names: set[str]) -> tuple[str, ...]:
    """Return names of convolutions in execution order."""
    convs = (step for step in traced.steps if isinstance(step, ConvShape))
    return tuple(step.name for step in convs if step.name in names)


def _unread(traced: Trace) -> set[str]:
    """Return the convolutions that no other one reads: the outputs of Detect."""
    return {
        step.name
        for step, readers in zip(traced.steps, traced.readers, strict=True)
        if isinstance(step, ConvShape) and not readers
    }


def _couple(
    net: nn.Module, traced: Trace, ignored: set[str]
) -> tuple[tuple[ChannelGroup, ...], IntArray]:
    """Return the groups, and the channel number of every source, that of `IMAGE` (-1) last."""
    writes = {
        step.name: sources
        for step, sources in zip(traced.steps, traced.writes, strict=True)
        if isinstance(step, ConvShape)
    }
    channel_of_source = np.full(sum(map(len, writes.values())) + 1, FIXED, dtype=np.int64)
    graph = _dependency_graph(net)
    names = {module: name for name, module in net.named_modules()}
    groups = list[ChannelGroup]()
    grouped = set[str]()
    channels = 0
    for name, sources in writes.items():
        if name in grouped or name in ignored:
            continue
        coupled = {
            names[module]: (indices, roots)
            for module, indices, roots in _coupled_convs(
                graph, cast("nn.Conv2d", net.get_submodule(name))
            )
        }
        grouped |= coupled.keys()
        if not ignored.isdisjoint(coupled):
            continue
        for member, (indices, roots) in coupled.items():
            channel_of_source[writes[member][indices]] = channels + roots
        channels += len(sources)
        members = tuple(member for member in writes if member in coupled)
        block = _block_around(net, members, ignored)
        groups.append(ChannelGroup(name.removesuffix(".conv"), len(sources), members, block))
    return tuple(groups), channel_of_source


def _block_around(net: nn.Module, members: tuple[str, ...], ignored: set[str]) -> str:
    """Return the residual block that the channels of these convolutions are inside of, or ""."""
    block, _, first = members[0].removesuffix(".conv").rpartition(".")
    module = net.get_submodule(block)
    if len(members) > 1 or first != "cv1" or not isinstance(module, Bottleneck) or not module.add:
        return ""
    return "" if any(name.startswith(f"{block}.") for name in ignored) else block


def _dependency_graph(net: nn.Module) -> torch_pruning.DependencyGraph:
    """Build the graph; torch-pruning follows gradients, so all parameters must want one."""
    net.requires_grad_(True)
    picture = torch.zeros(1, 3, TRACE_IMGSZ, TRACE_IMGSZ)
    return torch_pruning.DependencyGraph().build_dependency(net, picture)


def _coupled_convs(
    graph: torch_pruning.DependencyGraph, root: nn.Conv2d
) -> Iterator[tuple[nn.Module, IntArray, IntArray]]:
    """Yield the convolutions whose outputs go with those of `root`, it included.

    With each: output channels, and the channels of `root` that they go with.
    """
    prune = torch_pruning.prune_conv_out_channels
    for item in graph.get_pruning_group(root, prune, list(range(root.out_channels))):
        module = item.dep.target.module
        if isinstance(module, nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
            yield module, np.array(item.idxs), np.array(item.root_idxs)


def _channel_map(channels: tuple[IntArray, ...], sizes: IntArray) -> ChannelMap:
    """Count, for each step's channel numbers, the fixed ones and how often each group appears."""
    constant = np.array([(numbers == FIXED).sum() for numbers in channels], dtype=np.int64)
    group_of_channel = np.repeat(np.arange(len(sizes)), sizes)
    factors = np.zeros((len(sizes), len(channels)), dtype=np.int64)
    for step, numbers in enumerate(channels):
        groups = group_of_channel[numbers[numbers != FIXED]]
        # A step has all channels of a group or none, so this divides without remainder.
        factors[:, step] = np.bincount(groups, minlength=len(sizes)) // sizes
    return ChannelMap(constant, factors)


def _rescaled(step: ConvShape | OtherOp, imgsz: int, traced_imgsz: int) -> ConvShape | OtherOp:
    """Return a step for another picture size; exact, as all maps are picture size over stride."""
    height, width = (size * imgsz // traced_imgsz for size in (step.out_h, step.out_w))
    if isinstance(step, ConvShape):
        return replace(step, out_h=height, out_w=width)
    in_h, in_w = (size * imgsz // traced_imgsz for size in (step.in_h, step.in_w))
    return replace(step, in_h=in_h, in_w=in_w, out_h=height, out_w=width)
