"""The search space: variables with levels, and what a whole population of genomes amounts to.

A genome has one integer for each variable, its level; level 0 is the densest. What has a single
option is no variable. Variables come in the order: picture size, kept channels of each group, bits
of each layer.

Axis letters: N candidates, V variables, G groups, L layers, K other ops, S steps (L and K).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hw_models.errors import InputError
from hw_models.workload import Workload, WorkloadBatch
from spaces.axis import Axis, Variable
from spaces.candidate import Candidate, check_names
from spaces.groups import Network
from spaces.shapes import BASELINE_BITS, Bits, Shapes, workload_of
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
        check_names("channel group", levels, sizes)
        check_names("layer", bits, layers)
        check_names("layer to vary", bits, [name for name in layers if name not in network.ignored])
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
        self._check_options(sizes)
        self._shapes = Shapes(network, baseline)

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
        bits = self._bits_of(candidate)
        self.network.counts(candidate)
        genome = np.zeros(self._bits.end, dtype=np.int64)
        self._imgsz.write({"imgsz": candidate.imgsz}, genome)
        self._keep.write(dict(candidate.kept), genome)
        self._bits.write(bits, genome)
        return genome

    def workload(self, candidate: Candidate) -> Workload:
        """Return what a cost model is asked about for one candidate, whether at levels or between.

        Raises:
            InputError: It names an unknown group or layer or one twice, keeps a number of channels
                that is out of range, or has a picture size that does not fit.
        """
        bits = self._bits_of(candidate)
        batch = self._shapes.batch(
            np.array([[candidate.imgsz]]),
            self.network.counts(candidate)[None],
            np.array([[bits.get(name, pairs[0]) for name, pairs in self._bits.options.items()]]),
        )
        return workload_of(self.network.steps_at(candidate.imgsz), batch, candidate.imgsz)

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

    def _bits_of(self, candidate: Candidate) -> dict[str, Bits]:
        check_names("layer", [name for name, _, _ in candidate.bits], self._bits.options)
        if candidate.patterns:
            raise InputError(
                f"The candidate has patterns ({candidate.patterns[0]}, ...), but patterns do not "
                "vary in this search space."
            )
        return {name: (weight, act) for name, weight, act in candidate.bits}


def _whole(values: Iterable[int]) -> tuple[int, ...]:
    """Turn numpy's integers into Python's, which JSON can hold; refuse fractions."""
    return tuple(operator.index(value) for value in values)


def _pair(bits: Bits) -> Bits:
    weight, act = _whole(bits)
    return weight, act
