"""The search space: variables with levels, and what a whole population of genomes amounts to.

A genome has one integer for each variable, its level; level 0 is the densest. What has a single
option is no variable. Variables come in the order: picture size, kept channels of each group, bits
of each layer, sparsity pattern of each layer, whether each residual block is there.

Axis letters: N candidates, V variables, G groups, L layers, K other ops, S steps (L and K), D
residual blocks that may be dropped.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from hw_models.errors import InputError
from hw_models.workload import Workload, WorkloadBatch
from spaces.axis import Axis, Option, Variable
from spaces.candidate import Candidate, check_names
from spaces.groups import Network
from spaces.shapes import BASELINE_BITS, Bits, Shapes, workload_of
from spaces.sparsity.names import parse_pattern, parse_patterns, pattern_for
from spaces.trace import IntArray


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


def bit_options(
    network: Network, options: Sequence[Bits], outputs: bool = False
) -> dict[str, tuple[Bits, ...]]:
    """Return the same options for every layer that is not ignored.

    Args:
        network: Its layers.
        options: (weight bits, activation bits), densest first.
        outputs: Whether Detect's output convolutions have them, too.
    """
    left = {*network.ignored} - ({*network.outputs} if outputs else set())
    return {layer.name: tuple(options) for layer in network.layers if layer.name not in left}


def pattern_options(network: Network, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the same patterns, dense first, for every layer that they fit.

    Ignored, grouped and depthwise layers have none.

    Args:
        network: Its layers.
        names: Patterns beside dense, in any order.

    Raises:
        InputError: One is no pattern, or given twice.
    """
    patterns = parse_patterns(names)[::-1]
    check_names("pattern", [pattern.name for pattern in patterns], {p.name for p in patterns})
    options = {
        layer.name: ("dense", *(p.name for p in patterns if p.fits(layer.kernel)))
        for layer in network.layers
        if layer.groups == 1 and layer.name not in network.ignored
    }
    return {name: values for name, values in options.items() if len(values) > 1}


def droppable(network: Network) -> tuple[str, ...]:
    """Return the residual blocks that a network may do without, as modules' names."""
    return tuple(group.block for group in network.groups if group.block)


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
        patterns: For each layer, the names of the sparsity patterns to choose from, densest first;
            a layer not named is dense. See `pattern_options`.
        depth: Residual blocks that may be dropped. See `droppable`.
        converts: Whether maps that change their format are priced: `DeviceProfile.converts`.

    Raises:
        InputError: An unknown group, layer or block, an ignored layer with patterns or (unless
            it is one of Detect's outputs) with bits, a number of channels that is out of range, a
            pattern that does not fit a layer, options that are empty, repeated or not from dense
            to sparse, or a picture size that does not fit.
    """

    def __init__(
        self,
        network: Network,
        imgsz: Sequence[int],
        levels: Mapping[str, Sequence[int]] | None = None,
        bits: Mapping[str, Sequence[Bits]] | None = None,
        baseline: Bits = BASELINE_BITS,
        patterns: Mapping[str, Sequence[str]] | None = None,
        depth: Sequence[str] = (),
        converts: bool = False,
    ) -> None:
        levels, bits, patterns = levels or {}, bits or {}, patterns or {}
        sizes = {group.name: group.size for group in network.groups}
        layers = [layer.name for layer in network.layers]
        check_names("channel group", levels, sizes)
        check_names("layer", bits, layers)
        check_names("layer", patterns, layers)
        free = [name for name in layers if name not in network.ignored]
        check_names("layer to vary", bits, [*free, *network.outputs])
        check_names("layer to vary", patterns, free)
        self.network = network
        self.baseline = baseline
        self._imgsz = Axis[int]({"imgsz": _whole(sorted(imgsz, reverse=True))}, 0)
        self._keep = Axis[int](
            {name: _whole(levels.get(name, (size,))) for name, size in sizes.items()},
            self._imgsz.end,
        )
        self._bits = Axis[Bits](
            {name: tuple(map(_pair, bits.get(name, (baseline,)))) for name in layers},
            self._keep.end,
        )
        named = {
            layer: tuple(parse_pattern(name).name for name in patterns.get(layer, ("dense",)))
            for layer in layers
        }
        self._patterns = parse_patterns({"dense"}.union(*named.values()))
        codes = {pattern.name: code for code, pattern in enumerate(self._patterns)}
        self._pattern = Axis[str](named, self._bits.end, codes.__getitem__)
        self._group_of = {group.block: group.name for group in network.groups if group.block}
        check_names("residual block", depth, self._group_of)
        self._depth = Axis[int](
            {block: (1, 0) if block in depth else (1,) for block in self._group_of},
            self._pattern.end,
        )
        names = [group.name for group in network.groups]
        self._inside_D = np.array([names.index(name) for name in self._group_of.values()], int)
        self._check_options(sizes)
        self.converts = converts
        self._shapes = Shapes(network, baseline, converts)

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
        for layer, patterns in zip(
            self.network.layers, self._pattern.options.values(), strict=True
        ):
            for name in patterns:
                pattern_for(layer, name)
            if patterns[0] != "dense":
                raise InputError(
                    f"Patterns of layer {layer.name}: expected dense first, got {list(patterns)}."
                )

    def narrowed(self, options: Mapping[str, tuple[Any, ...]]) -> SearchSpace:
        """Return the space with other options for some variables, given by their names."""

        def of(
            axis: Axis[Option], prefix: str, of_ignored: Option | None = None
        ) -> dict[str, tuple[Option, ...]]:
            return {
                name: options.get(prefix + name, values)
                for name, values in axis.options.items()
                if name not in self.network.ignored or values != (of_ignored,)
            }

        return SearchSpace(
            self.network,
            of(self._imgsz, "")["imgsz"],
            of(self._keep, "keep:"),
            of(self._bits, "bits:", self.baseline),
            self.baseline,
            of(self._pattern, "pattern:", "dense"),
            [block for block, options in of(self._depth, "depth:").items() if 0 in options],
            self.converts,
        )

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """What varies, in the genome's order."""
        return (
            *self._imgsz.variables(""),
            *self._keep.variables("keep:"),
            *self._bits.variables("bits:"),
            *self._pattern.variables("pattern:"),
            *self._depth.variables("depth:"),
        )

    @cached_property
    def upper(self) -> IntArray:
        """The largest level of each variable [V]; read-only."""
        upper = np.array([len(variable.options) - 1 for variable in self.variables], dtype=np.int64)
        upper.flags.writeable = False
        return upper

    @property
    def dense(self) -> Candidate:
        """The candidate that keeps everything, at the largest picture size."""
        return self.decode(np.zeros(self._depth.end, dtype=np.int64))

    def decode(self, genome: IntArray) -> Candidate:
        """Return the candidate of a genome [V].

        It names every group and every layer with its bits, and the layers whose pattern is not
        dense, but no layers of dropped blocks, so that equal candidates have equal digests.

        Raises:
            InputError: The genome has another length, or a level that is out of range.
        """
        levels = self._checked(np.asarray(genome)[None])[0]
        ((_, imgsz),) = self._imgsz.chosen(levels)
        dropped = [block for block, there in self._depth.chosen(levels) if not there]
        none = dict.fromkeys((self._group_of[block] for block in dropped), 0)
        gone = tuple(f"{block}." for block in dropped)
        return Candidate(
            imgsz=imgsz,
            kept=tuple((name, none.get(name, count)) for name, count in self._keep.chosen(levels)),
            bits=tuple(item for item in self._bits.chosen(levels) if not item[0].startswith(gone)),
            patterns=tuple(
                (name, pattern)
                for name, pattern in self._pattern.chosen(levels)
                if pattern != "dense" and not name.startswith(gone)
            ),
        )

    def canonical(self, genomes_NV: IntArray) -> IntArray:
        """Return the genomes [N, V] with level 0 for all that lies inside of dropped blocks.

        Genomes are of the same candidate where these are equal.
        """
        if not self._insides:
            return genomes_NV
        genomes_NV = genomes_NV.copy()
        for column, inside in self._insides:
            genomes_NV[np.ix_(genomes_NV[:, column] == 1, inside)] = 0
        return genomes_NV

    @cached_property
    def _insides(self) -> list[tuple[int, list[int]]]:
        """The column of each block that may be dropped, with those of what lies inside of it."""
        owners = [variable.name.partition(":")[2] for variable in self.variables]
        return [
            (column, [v for v, owner in enumerate(owners) if owner.startswith(f"{block}.")])
            for block, column in self._depth.columns.items()
        ]

    def encode(self, candidate: Candidate) -> IntArray:
        """Return the genome [V] of a candidate.

        Groups and layers that it does not name are at level 0, and so is what lies inside of
        dropped blocks.

        Raises:
            InputError: It names an unknown group or layer or one twice, or has a value that is no
                level.
        """
        bits, patterns = self._bits_of(candidate), self._patterns_of(candidate)
        counts = dict(zip(self._keep.options, self.network.counts(candidate).tolist(), strict=True))
        genome = np.zeros(self._depth.end, dtype=np.int64)
        self._imgsz.write({"imgsz": candidate.imgsz}, genome)
        self._keep.write({name: count for name, count in counts.items() if count}, genome)
        self._depth.write(
            {block: int(counts[group] > 0) for block, group in self._group_of.items()}, genome
        )
        self._bits.write(bits, genome)
        self._pattern.write(patterns, genome)
        return genome

    def workload(self, candidate: Candidate) -> Workload:
        """Return what a cost model is asked about for one candidate, whether at levels or between.

        Raises:
            InputError: It names an unknown group or layer or one twice, keeps a number of channels
                that is out of range, or has a picture size or a pattern that does not fit.
        """
        bits, patterns = self._bits_of(candidate), self._patterns_of(candidate)
        for layer in self.network.layers:
            pattern_for(layer, patterns.get(layer.name, "dense"))
        used = parse_patterns({"dense", *patterns.values()})
        codes = {pattern.name: code for code, pattern in enumerate(used)}
        batch = self._shapes.batch(
            np.array([[candidate.imgsz]]),
            self.network.counts(candidate)[None],
            np.array([[bits.get(name, pairs[0]) for name, pairs in self._bits.options.items()]]),
            np.array([[codes[patterns.get(name, "dense")] for name in self._bits.options]]),
            used,
        )
        return workload_of(self.network.steps_at(candidate.imgsz), batch, candidate.imgsz)

    def workloads(self, genomes_NV: IntArray) -> WorkloadBatch:
        """Return what a cost model is asked about for many genomes at once.

        Raises:
            InputError: The genomes have another length, or a level that is out of range.
        """
        levels = self._checked(np.asarray(genomes_NV))
        kept_NG = self._keep.values(levels)
        kept_NG[:, self._inside_D] *= self._depth.values(levels)
        return self._shapes.batch(
            self._imgsz.values(levels),
            kept_NG,
            self._bits.values(levels),
            self._pattern.values(levels),
            self._patterns,
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

    def _bits_of(self, candidate: Candidate) -> dict[str, Bits]:
        check_names("layer", [name for name, _, _ in candidate.bits], self._bits.options)
        return {name: (weight, act) for name, weight, act in candidate.bits}

    def _patterns_of(self, candidate: Candidate) -> dict[str, str]:
        check_names("layer", [name for name, _ in candidate.patterns], self._bits.options)
        return {layer: parse_pattern(name).name for layer, name in candidate.patterns}


def _whole(values: Iterable[int]) -> tuple[int, ...]:
    """Turn numpy's integers into Python's, which JSON can hold; refuse fractions."""
    return tuple(operator.index(value) for value in values)


def _pair(bits: Bits) -> Bits:
    weight, act = _whole(bits)
    return weight, act
