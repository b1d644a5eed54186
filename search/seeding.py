"""Where a search starts: genomes that are good before anything was evolved.

Uniformly random genomes of a detector are mostly dead nets, so nobody starts there. `paretrim` asks
once, with the cheapest rung, how much each variable costs when moved alone, adds these costs up
(squared disagreement adds up; see `additive_loss`), and walks greedily from the dense model to the
cheapest one by the step that loses least for each saved millisecond. The genomes along that walk
are the seeds.

Axis letters: X_NV = N genomes x V variables, 0 = densest level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.score import Failed, Score

Genomes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Latency = Callable[[Genomes], Floats]
"""[N, V] genomes -> [N] latency in ms."""

LOST = 1.0  # additive loss of a move after which the model no longer answers: all detections gone


@dataclass(frozen=True, slots=True)
class Probe:
    """One variable moved alone to one level."""

    variable: int
    level: int


def plan_probes(upper_V: Genomes, fixed: Sequence[int] = ()) -> list[Probe]:
    """Choose the levels at which each variable is probed: the first and the middle one.

    The first step is where most good candidates lie; the middle one tells how steep it gets.
    Variables in `fixed` are not probed.
    """
    return [
        Probe(variable, level)
        for variable, upper in enumerate(upper_V)
        if variable not in fixed
        for level in sorted({min(1, int(upper)), int(upper) // 2})
        if level > 0
    ]


def probe_genomes(probes: Sequence[Probe], start_V: Genomes) -> Genomes:
    """Return the start genome with one probe's move applied a row: [len(probes), V]."""
    genomes_NV = np.repeat(start_V[None, :], len(probes), axis=0)
    for row, probe in enumerate(probes):
        genomes_NV[row, probe.variable] = probe.level
    return genomes_NV


def additive_loss(result: Score | Failed) -> float:
    """Return what a probe lost, in a unit that adds up over variables.

    The disagreement of the detections of independent changes adds in quadrature, so its square
    adds up.
    """
    return LOST if isinstance(result, Failed) else (1.0 - result.agreement) ** 2


def loss_table(probes: Sequence[Probe], losses: Sequence[float], upper_V: Genomes) -> list[Floats]:
    """Extend probed losses to every level of every variable.

    Linear between probed levels, continued with the last slope beyond them, and never falling:
    a smaller layer is never taken to be better because of noise. A variable that was not probed
    stays at level 0.

    Returns:
        For each variable the loss of its levels, length upper + 1 (1 if not probed), 0 at level 0.
    """
    table = []
    for variable, upper in enumerate(upper_V):
        known = sorted(
            (probe.level, loss)
            for probe, loss in zip(probes, losses, strict=True)
            if probe.variable == variable
        )
        if not known:
            table.append(np.zeros(1))
            continue
        levels = [0.0, *(float(level) for level, _ in known)]
        values = np.maximum.accumulate([0.0, *(loss for _, loss in known)])
        grid = np.arange(int(upper) + 1, dtype=np.float64)
        column = np.interp(grid, levels, values)
        slope = (values[-1] - values[-2]) / (levels[-1] - levels[-2])
        beyond = grid > levels[-1]
        column[beyond] = values[-1] + slope * (grid[beyond] - levels[-1])
        table.append(column)
    return table


def greedy_walk(table: Sequence[Floats], latency: Latency, start_V: Genomes) -> Iterator[Genomes]:
    """Walk from `start_V` to the cheapest genome; yield every genome on the way, both included.

    Each step moves the one variable, by one level or straight to where it next saves time, that
    loses least for each saved millisecond. Levels that save nothing (channels within the same
    hardware granule) are passed over.
    """
    current_V = start_V.copy()
    current_ms = float(latency(current_V[None, :])[0])
    while True:
        yield current_V.copy()
        moves = [
            (variable, level)
            for variable, column in enumerate(table)
            for level in range(int(current_V[variable]) + 1, len(column))
        ]
        if not moves:
            return
        steps_NV = np.repeat(current_V[None, :], len(moves), axis=0)
        for row, (variable, level) in enumerate(moves):
            steps_NV[row, variable] = level
        costs_N = latency(steps_NV)
        lost_N = np.array([table[v][level] - table[v][current_V[v]] for v, level in moves])
        saved_N = current_ms - costs_N
        saves = saved_N > 1e-9
        if not saves.any():
            return
        price_N = np.where(saves, lost_N / np.where(saves, saved_N, 1.0), np.inf)
        best = int(price_N.round(12).argmin())  # of equal prices the smallest step
        current_V, current_ms = steps_NV[best], float(costs_N[best])


def spread_over_latency(
    walk_NV: Genomes, latency: Latency, count: int, budgets_ms: Sequence[float]
) -> Genomes:
    """Choose genomes of a walk: the first within each budget, and others evenly apart in latency.

    Args:
        walk_NV: Genomes of falling latency.
        latency: Prices them.
        count: How many to return at most, beside those of the budgets.
        budgets_ms: Budgets for which one genome each must be there, if any meets it.
    """
    costs_N = latency(walk_NV)
    wanted = [np.flatnonzero(costs_N <= budget)[:1] for budget in budgets_ms]
    marks = np.linspace(costs_N.max(), costs_N.min(), max(count, 2))[:count]
    wanted += [np.flatnonzero(costs_N <= mark)[:1] for mark in marks]
    rows = sorted({int(row) for rows in wanted for row in rows})
    return walk_NV[rows]


def sparse_random(count: int, upper_V: Genomes, random: np.random.Generator) -> Genomes:
    """Return random genomes with few moved variables: the fair random start.

    The share of moved variables is itself drawn, between one variable and half of them, so that
    light and heavy compression are both there.
    """
    upper_V = np.asarray(upper_V)
    share_N1 = np.exp(random.uniform(np.log(1 / max(len(upper_V), 2)), np.log(0.5), (count, 1)))
    moved_NV = random.random((count, len(upper_V))) < share_N1
    levels_NV = random.integers(0, upper_V + 1, (count, len(upper_V)))
    return np.where(moved_NV, levels_NV, 0).astype(np.int64)


def uniform_grid(upper_V: Genomes, families: Sequence[Sequence[int]], count: int) -> Genomes:
    """Return genomes in which each family of variables stands at one common share of its range.

    Args:
        upper_V: Largest level of each variable.
        families: Variables that move together (all channel groups, all layers' bits, the size).
        count: How many genomes at most; the grid over the families is thinned to it.
    """
    shares = [np.linspace(0, 1, max(int(upper_V[v]) for v in family) + 1) for family in families]
    grid = np.array(np.meshgrid(*shares, indexing="ij")).reshape(len(families), -1).T
    genomes_NV = np.zeros((len(grid), len(upper_V)), dtype=np.int64)
    for column, family in enumerate(families):
        for variable in family:
            genomes_NV[:, variable] = np.round(grid[:, column] * upper_V[variable])
    genomes_NV = np.unique(genomes_NV, axis=0)
    thinned = np.linspace(0, len(genomes_NV) - 1, min(count, len(genomes_NV)))
    return genomes_NV[np.unique(thinned.round().astype(int))]
