"""The search space: variables with levels, and what a whole population of genomes amounts to.

A genome has one integer for each variable, its level; level 0 is the densest. What has a single
option is no variable. Variables come in the order: picture size, kept channels of each group, bits
of each layer.

Axis letters: N candidates, V variables, G groups, L layers, K other ops, S steps (L and K).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from hw_models.errors import InputError
from hw_models.workload import (
    DEPTHWISE,
    ConvBatch,
    ConvShape,
    OpBatch,
    OtherOp,
    Workload,
    WorkloadBatch,
)
from spaces.candidate import Candidate
from spaces.groups import Network
from spaces.trace import IntArray

Bits = tuple[int, int]
"""(weight bits, activation bits) of a layer."""

BASELINE_BITS: Bits = (16, 16)
"""Bits of a layer that is left alone; Jetson engines run in FP16."""

Option = TypeVar("Option", int, Bits)


@dataclass(frozen=True, slots=True)
class Variable:
    """Something that may vary.

    Args:
        name: `imgsz`, `keep:GROUP` or `bits:LAYER`.
        options: Its values, densest first.
    """

    name: str
    options: tuple[Any, ...]


def keep_levels(
    network: Network, granule: int = 8, most: int = 8, smallest: float = 1 / 8
) -> dict[str, tuple[int, ...]]:
    """Return for each group the numbers of channels to choose from, evenly spread.

    Args:
        network: Its groups.
        granule: All numbers but the dense one are multiples of it: the width that a device's
            kernels work in.
        most: Largest number of levels of a group, the dense one included; at least 2.
        smallest: Least fraction of the channels to keep; at least one granule is kept.

    Raises:
        InputError: `granule` or `most` is too small, or `smallest` is not in 0..1.
    """
    if granule < 1 or most < 2 or not 0 <= smallest <= 1:
        raise InputError(
            "Keep levels need a granule of at least 1, at least 2 levels and a smallest fraction "
            f"in 0..1; got {granule}, {most} and {smallest}."
        )
    return {group.name: _spread(group.size, granule, most, smallest) for group in network.groups}


def _spread(size: int, granule: int, most: int, smallest: float) -> tuple[int, ...]:
    least = max(1, int(np.ceil(size * smallest / granule)))  # in granules, as the next three
    largest = int(np.ceil(size / granule)) - 1
    if largest < least:
        return (size,)
    numbers = np.rint(np.linspace(size / granule, least, most))[1:].clip(least, largest)
    return (size, *(int(number) * granule for number in dict.fromkeys(numbers)))


def bit_options(network: Network, options: Sequence[Bits]) -> dict[str, tuple[Bits, ...]]:
    """Return the same options for every layer that is not ignored.

    Args:
        network: Its layers.
        options: (weight bits, activation bits), densest first.
    """
    ignored = set(network.ignored)
    return {layer.name: tuple(options) for layer in network.layers if layer.name not in ignored}


class SearchSpace:
    """All candidates of one network, as vectors of levels.

    Args:
        network: Layers and groups.
        imgsz: Picture sizes to choose from, each a multiple of the network's stride.
        levels: For each group, the numbers of channels to choose from, the dense one first; a
            group not named stays dense. See `keep_levels`.
        bits: For each layer, the (weight bits, activation bits) to choose from, densest first; a
            layer not named has `baseline`. See `bit_options`.
        baseline: Bits of the layers that are left alone.

    Raises:
        InputError: An unknown group or layer, an ignored layer with bits, a number of channels
            that is out of range, options that are empty, repeated or not from dense to sparse, or
            a picture size that does not fit.
    """

    def __init__(
        self,
        network: Network,
        imgsz: Sequence[int],
        levels: Mapping[str, Sequence[int]] | None = None,
        bits: Mapping[str, Sequence[Bits]] | None = None,
        baseline: Bits = BASELINE_BITS,
    ) -> None:
        levels, bits = levels or {}, bits or {}
        sizes = {group.name: group.size for group in network.groups}
        layers = [layer.name for layer in network.layers]
        _check_known("channel group", levels, sizes)
        _check_known("layer", bits, layers)
        _check_known("layer that is not ignored", bits, set(layers) - set(network.ignored))
        self.network = network
        self.baseline = baseline
        self._imgsz = _Axis[int]({"imgsz": tuple(sorted(imgsz, reverse=True))}, 0)
        self._keep = _Axis[int](
            {name: tuple(levels.get(name, (size,))) for name, size in sizes.items()},
            self._imgsz.end,
        )
        self._bits = _Axis[Bits](
            {name: tuple(bits.get(name, (baseline,))) for name in layers}, self._keep.end
        )
        self._check_options(sizes)
        self._shapes = _Shapes(network, baseline)

    def _check_options(self, sizes: Mapping[str, int]) -> None:
        for size in self._imgsz.options["imgsz"]:
            self.network.steps_at(size)
        for name, counts in self._keep.options.items():
            if counts[0] != sizes[name] or min(counts) < 1:
                raise InputError(
                    f"Levels of group {name}: expected channels from its {sizes[name]} (dense, "
                    f"first) down to no less than 1, got {list(counts)}."
                )
        for name, pairs in self._bits.options.items():
            if min(min(option) for option in pairs) < 1:
                raise InputError(f"Bits of layer {name}: expected positive, got {list(pairs)}.")

    @property
    def variables(self) -> tuple[Variable, ...]:
        """What varies, in the genome's order."""
        return (
            *self._imgsz.variables(""),
            *self._keep.variables("keep:"),
            *self._bits.variables("bits:"),
        )

    @property
    def upper(self) -> IntArray:
        """The largest level of each variable [V]."""
        return np.array([len(variable.options) - 1 for variable in self.variables], dtype=np.int64)

    @property
    def dense(self) -> Candidate:
        """The candidate that keeps everything, at the largest picture size."""
        return self.decode(np.zeros(self._bits.end, dtype=np.int64))

    def decode(self, genome: IntArray) -> Candidate:
        """Return the candidate of a genome [V].

        It names every group and every layer, so that equal candidates have equal digests.

        Raises:
            InputError: The genome has another length, or a level that is out of range.
        """
        levels = self._checked(np.asarray(genome)[None])[0]
        bits = self._bits.chosen(levels).items()
        return Candidate(
            imgsz=self._imgsz.chosen(levels)["imgsz"],
            kept=tuple(self._keep.chosen(levels).items()),
            bits=tuple((layer, weight, act) for layer, (weight, act) in bits),
        )

    def encode(self, candidate: Candidate) -> IntArray:
        """Return the genome [V] of a candidate; groups and layers it does not name are at level 0.

        Raises:
            InputError: It names an unknown group or layer or one twice, has a value that is no
                level, or has patterns, which this space does not vary.
        """
        self._check_names(candidate)
        if candidate.patterns:
            raise InputError(
                f"The candidate has patterns ({candidate.patterns[0]}, ...), but patterns do not "
                "vary in this search space."
            )
        genome = np.zeros(self._bits.end, dtype=np.int64)
        self._imgsz.write({"imgsz": candidate.imgsz}, genome)
        self._keep.write(dict(candidate.kept), genome)
        self._bits.write({layer: (w, a) for layer, w, a in candidate.bits}, genome)
        return genome

    def workload(self, candidate: Candidate) -> Workload:
        """Return what a cost model is asked about for one candidate, whether at levels or between.

        Raises:
            InputError: It names an unknown group or layer or one twice, keeps a number of channels
                that is out of range, or has a picture size that does not fit.
        """
        self._check_names(candidate)
        counts = dict(candidate.kept)
        bits = {layer: (w, a) for layer, w, a in candidate.bits}
        for group in self.network.groups:
            if not 1 <= counts.setdefault(group.name, group.size) <= group.size:
                raise InputError(
                    f"Group {group.name}: expected 1 to {group.size} channels, got "
                    f"{counts[group.name]}."
                )
        steps = self.network.steps_at(candidate.imgsz)
        chosen = [bits.get(layer, options[0]) for layer, options in self._bits.options.items()]
        batch = self._shapes.batch(
            np.array([[candidate.imgsz]]),
            np.array([[counts[group.name] for group in self.network.groups]]),
            np.array([chosen]),
        )
        return _workload(steps, batch, dict(candidate.patterns), candidate.imgsz)

    def workloads(self, genomes_NV: IntArray) -> WorkloadBatch:
        """Return what a cost model is asked about for many genomes at once.

        Raises:
            InputError: The genomes have another length, or a level that is out of range.
        """
        levels = self._checked(np.asarray(genomes_NV))
        return self._shapes.batch(
            self._imgsz.values(levels), self._keep.values(levels), self._bits.values(levels)
        )

    def _checked(self, genomes_NV: IntArray) -> IntArray:
        """Return the genomes with a last column of zeros, the level of what does not vary."""
        upper = self.upper
        if genomes_NV.ndim != 2 or genomes_NV.shape[1] != len(upper):
            raise InputError(
                f"Genomes have shape {genomes_NV.shape}; expected {len(upper)} variables."
            )
        if not np.issubdtype(genomes_NV.dtype, np.integer):
            raise InputError(f"Genomes are of type {genomes_NV.dtype}; expected integers.")
        wrong = (genomes_NV < 0) | (genomes_NV > upper)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"Variable {self.variables[column].name} has levels 0 to {upper[column]}; got "
                f"{genomes_NV[row, column]} (genome {row})."
            )
        return np.pad(genomes_NV, ((0, 0), (0, 1))).astype(np.int64)

    def _check_names(self, candidate: Candidate) -> None:
        groups = [name for name, _ in candidate.kept]
        layers = [name for name, _, _ in candidate.bits]
        patterned = [name for name, _ in candidate.patterns]
        _check_known("channel group", groups, self._keep.options)
        _check_known("layer", layers, self._bits.options)
        _check_known("layer", patterned, self._bits.options)
        for names in (groups, layers, patterned):
            name, count = Counter(names).most_common(1)[0] if names else ("", 0)
            if count > 1:
                raise InputError(f"The candidate names {name} {count} times; expected once.")


class _Axis(Generic[Option]):
    """Things of one kind, each with options; those with several are variables.

    Args:
        options: For each thing, its options, densest first.
        start: The genome's column of the first variable.
    """

    def __init__(self, options: dict[str, tuple[Option, ...]], start: int) -> None:
        for name, values in options.items():
            if not values or list(values) != sorted(set(values), reverse=True):
                raise InputError(
                    f"Options of {name}: expected different values, densest first, got "
                    f"{list(values)}."
                )
        self.options: dict[str, tuple[Option, ...]] = options
        varying = [name for name, values in options.items() if len(values) > 1]
        self.columns = {name: start + number for number, name in enumerate(varying)}
        self.end = start + len(varying)
        # What does not vary reads the last column of a padded genome, which is 0.
        self._reads = np.array([self.columns.get(name, -1) for name in options], dtype=np.int64)
        longest = max(map(len, options.values()), default=1)
        padded = [values + values[-1:] * (longest - len(values)) for values in options.values()]
        self._table = np.array(padded, dtype=np.int64)

    def variables(self, prefix: str) -> Iterable[Variable]:
        return (Variable(prefix + name, self.options[name]) for name in self.columns)

    def values(self, levels: IntArray) -> IntArray:
        """Return the value of each thing [N, things], or [N, things, 2] for bits."""
        values: IntArray = self._table[np.arange(len(self._reads)), levels[:, self._reads]]
        return values

    def chosen(self, levels: IntArray) -> dict[str, Option]:
        return {
            name: values[levels[self.columns.get(name, -1)]]
            for name, values in self.options.items()
        }

    def write(self, values: Mapping[str, Option], genome: IntArray) -> None:
        for name, value in values.items():
            options = self.options[name]
            if value not in options:
                raise InputError(f"{name}: expected one of {list(options)}, got {value}.")
            if name in self.columns:
                genome[self.columns[name]] = options.index(value)


class _Shapes:
    """Turns sizes, kept channels and bits into a `WorkloadBatch`."""

    def __init__(self, network: Network, baseline: Bits) -> None:
        steps = network.steps
        self._imgsz = network.imgsz
        self._reads, self._writes = network.widths()
        self._convs = [step for step in steps if isinstance(step, ConvShape)]
        self._others = [step for step in steps if isinstance(step, OtherOp)]
        self._is_conv = np.array([isinstance(step, ConvShape) for step in steps])
        self._baseline = baseline
        # Readers of each op as layer numbers; what no layer reads has the baseline's, number L.
        layer_of_step = np.cumsum(self._is_conv) - 1
        readers = [
            layer_of_step[list(network.readers[index])]
            if network.readers[index]
            else np.array([len(self._convs)])
            for index in np.flatnonzero(~self._is_conv)
        ]
        self._readers = np.concatenate([np.zeros(0, dtype=np.int64), *readers])
        self._first_reader = np.cumsum([0, *map(len, readers)])[:-1]

    def batch(self, imgsz_N1: IntArray, kept_NG: IntArray, bits_NL2: IntArray) -> WorkloadBatch:
        """Return the workloads of N candidates."""
        reads, writes = self._reads(kept_NG), self._writes(kept_NG)
        convs, others = self._is_conv, ~self._is_conv
        weight_bits, act_bits = bits_NL2[..., 0], bits_NL2[..., 1]
        one_row = np.ones((1, len(self._convs)))
        return WorkloadBatch(
            ConvBatch(
                names=tuple(conv.name for conv in self._convs),
                kernel=tuple(conv.kernel for conv in self._convs),
                stride=tuple(conv.stride for conv in self._convs),
                groups=tuple(1 if conv.groups == 1 else DEPTHWISE for conv in self._convs),
                in_channels=reads[:, convs],
                out_channels=writes[:, convs],
                out_h=self._scaled([conv.out_h for conv in self._convs], imgsz_N1),
                out_w=self._scaled([conv.out_w for conv in self._convs], imgsz_N1),
                weight_bits=weight_bits,
                act_bits=act_bits,
                density=one_row,
                pattern=np.zeros_like(one_row, dtype=np.int64),
            ),
            OpBatch(
                names=tuple(op.name for op in self._others),
                kinds=tuple(op.kind for op in self._others),
                in_channels=reads[:, others],
                out_channels=writes[:, others],
                in_h=self._scaled([op.in_h for op in self._others], imgsz_N1),
                in_w=self._scaled([op.in_w for op in self._others], imgsz_N1),
                out_h=self._scaled([op.out_h for op in self._others], imgsz_N1),
                out_w=self._scaled([op.out_w for op in self._others], imgsz_N1),
                act_bits=self._op_bits(act_bits),
            ),
        )

    def _scaled(self, sizes: list[int], imgsz_N1: IntArray) -> IntArray:
        scaled: IntArray = np.array(sizes, dtype=np.int64) * imgsz_N1 // self._imgsz
        return scaled

    def _op_bits(self, act_bits_NL: IntArray) -> IntArray:
        """Return the bits of each op's tensors [N, K]: the most that a layer reading it needs."""
        baseline = np.full((len(act_bits_NL), 1), self._baseline[1])
        padded = np.concatenate([act_bits_NL, baseline], axis=1)
        most: IntArray = np.maximum.reduceat(padded[:, self._readers], self._first_reader, axis=1)
        return most


def _workload(
    steps: tuple[ConvShape | OtherOp, ...],
    batch: WorkloadBatch,
    patterns: Mapping[str, str],
    imgsz: int,
) -> Workload:
    """Return the first workload of a batch, its steps in execution order."""
    convs, others = batch.convs, batch.others
    conv_number = {name: number for number, name in enumerate(convs.names)}
    op_number = {name: number for number, name in enumerate(others.names)}
    layers = list[ConvShape | OtherOp]()
    for step in steps:
        if isinstance(step, ConvShape):
            at = (0, conv_number[step.name])
            in_channels = int(convs.in_channels[at])
            layer: ConvShape | OtherOp = replace(
                step,
                in_channels=in_channels,
                out_channels=int(convs.out_channels[at]),
                groups=1 if step.groups == 1 else in_channels,
                weight_bits=int(convs.weight_bits[at]),
                act_bits=int(convs.act_bits[at]),
                pattern=patterns.get(step.name, "dense"),
            )
        else:
            at = (0, op_number[step.name])
            layer = replace(
                step,
                in_channels=int(others.in_channels[at]),
                out_channels=int(others.out_channels[at]),
                act_bits=int(others.act_bits[at]),
            )
        layers.append(layer)
    return Workload(tuple(layers), input_shape=(3, imgsz, imgsz))


def _check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        raise InputError(
            f"Unknown {what} {unknown[0]!r}; expected one of the model's {len(known)}"
            f"{f', such as {known[0]}' if known else ''}."
        )
