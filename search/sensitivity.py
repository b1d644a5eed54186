"""How much each variable costs in accuracy when moved alone: the table all else starts from.

Every variable is probed at some levels on the cheapest rung, from the first layer on that it moves
(`evaluators.prefix`). What is kept multiplies: the share of the squared agreement that a joint
change keeps is about the product of what its parts keep, so

    loss = -log(1 - (1 - agreement)^2)

adds up (YOLOv5n on COCO at 320 px, 86 random mixed candidates: Spearman of the sum with the loss of
mAP .983; without the logarithm the sum runs ahead of what is measured, twofold at .9).

Kept channels are ordered, so three levels tell the others (against all seven, 413 probes of the
same model: Spearman .995, median error 2 %). Bits and patterns are not: each level is probed.
One table serves all input sizes: between 256 and 320 px its entries correlate with .994 and differ
by a median of 1 %. It is made at the smallest size, where an evaluation is cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.score import Failed, Score
from search.explorer import Explorer
from spaces.axis import Variable

Genomes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LOST = 7.0  # additive loss after which nothing is left of the detections: exp(-7) < .001
ORDERED = ("keep",)  # families whose levels lie on a line
UNPROBED = ("imgsz",)  # its loss is known from the dense model at each size


@dataclass(frozen=True, slots=True)
class Probe:
    """One variable moved alone to one level."""

    variable: int
    level: int


def sweep(explorer: Explorer) -> list[Floats]:
    """Probe every variable alone and return the losses of all levels of each, 0 at level 0."""
    probes = plan_probes(explorer.variables)
    start_V = explorer.dense_NV[-1]
    genomes_NV = probe_genomes(probes, start_V)
    results = explorer.probe(genomes_NV, f"probing {len(probes)} moves of single variables")
    return loss_table(probes, [additive_loss(result) for result in results], explorer.variables)


def plan_probes(variables: Sequence[Variable]) -> list[Probe]:
    """Choose the levels to probe: of an ordered variable the first, middle and last, else all."""
    return [
        Probe(column, level)
        for column, variable in enumerate(variables)
        for level in _levels(family_of(variable), len(variable.options) - 1)
    ]


def _levels(family: str, upper: int) -> list[int]:
    if family in UNPROBED:
        return []
    return sorted({1, (upper + 1) // 2, upper}) if family in ORDERED else [*range(1, upper + 1)]


def family_of(variable: Variable) -> str:
    """Return `imgsz`, `keep`, `bits`, ...: what stands before the colon of a variable's name."""
    return variable.name.split(":")[0]


def probe_genomes(probes: Sequence[Probe], start_V: Genomes) -> Genomes:
    """Return the start genome with one probe's move applied a row: [len(probes), V]."""
    genomes_NV = np.repeat(start_V[None, :], len(probes), axis=0)
    for row, probe in enumerate(probes):
        genomes_NV[row, probe.variable] = probe.level
    return genomes_NV


def additive_loss(result: Score | Failed) -> float:
    """Return what a result says about how far a candidate is from the dense model, from 0 up."""
    if isinstance(result, Failed):
        return LOST
    kept = 1.0 - (1.0 - result.agreement) ** 2
    return min(LOST, -math.log(max(kept, 1e-9)))


def loss_table(
    probes: Sequence[Probe], losses: Sequence[float], variables: Sequence[Variable]
) -> list[Floats]:
    """Return the loss of every level of every variable, given some.

    An ordered variable's losses never fall (a smaller layer is not taken to be better because of
    noise) and are linear between probed levels. A variable that was not probed loses nothing.
    """
    table = []
    for column, variable in enumerate(variables):
        known = {p.level: x for p, x in zip(probes, losses, strict=True) if p.variable == column}
        levels = [0, *sorted(known)]
        values = np.array([0.0, *(known[level] for level in levels[1:])])
        if family_of(variable) in ORDERED:
            values = np.maximum.accumulate(values)
        table.append(np.interp(np.arange(len(variable.options)), levels, values))
    return table
