"""What each variable is worth: alone against the dense model, and as one more step from a point.

Costs are predicted exactly. Accuracy is estimated: the additive losses of `search.sensitivity`,
read back from the journal, say which share of the mAP a step leaves; of another input size, the
dense model's own mAP does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hw_models.errors import InputError
from search.front import Point
from search.journal import Entry
from search.problem import Problem, accuracy
from search.report.value import Move, VariableView
from search.sensitivity import (
    Floats,
    additive_loss,
    family_of,
    loss_table,
    plan_probes,
    probe_genomes,
)
from spaces.axis import Variable
from spaces.candidate import Candidate

Genomes = npt.NDArray[np.int64]


class Moves:
    """Knows the variables of a problem and what moving them does.

    Args:
        problem: What was searched.
        dense: The uncompressed model at its sizes.
        entries: The journal.

    Attributes:
        variables: To be shown.
    """

    def __init__(self, problem: Problem, dense: Sequence[Point], entries: Sequence[Entry]) -> None:
        self._problem = problem
        self._upper_V = np.asarray(problem.space.upper, dtype=np.int64)
        self._losses = _losses(problem, entries)
        self._dense_map = {p.candidate.imgsz: accuracy(p.score) for p in dense}
        losses: Sequence[Floats | None] = self._losses or [None] * len(self._upper_V)
        self.variables = tuple(
            VariableView(
                variable.name,
                tuple(_label(variable, option) for option in variable.options),
                None if loss is None or variable.name == "imgsz" else _shares(loss),
            )
            for variable, loss in zip(problem.space.variables, losses, strict=True)
        )

    def levels(self, candidate: Candidate) -> tuple[int, ...]:
        """Return the level of each variable; empty for what lies outside the space."""
        try:
            return tuple(self._problem.space.encode(candidate).tolist())
        except InputError:  # the dense model of a space of fixed bits, a recovered point
            return ()

    def of(self, point: Point) -> tuple[Move, ...]:
        """Return what moving each variable of a point by one level would change."""
        levels = self.levels(point.candidate)
        if not levels:
            return ()
        steps = [
            (column, level + by)
            for column, level in enumerate(levels)
            for by in (-1, 1)
            if 0 <= level + by <= self._upper_V[column]
        ]
        genomes_NV = np.tile(np.array(levels, dtype=np.int64), (len(steps) + 1, 1))
        for row, (column, level) in enumerate(steps, start=1):
            genomes_NV[row, column] = level
        costs = self._problem.costs(genomes_NV)
        latency_N = costs.latency_ms - costs.latency_ms[0]
        energy_N = costs.energy_mj - costs.energy_mj[0]
        size_N = (costs.size_bytes - costs.size_bytes[0]) / 1e6
        return tuple(
            Move(
                column,
                level,
                _short(latency_N[row]),
                None if math.isnan(energy_N[row]) else _short(energy_N[row]),
                _short(size_N[row]),
                self._accuracy_change(point, levels, column, level),
            )
            for row, (column, level) in enumerate(steps, start=1)
        )

    def _accuracy_change(
        self, point: Point, levels: Sequence[int], column: int, level: int
    ) -> float | None:
        variable = self._problem.space.variables[column]
        if variable.name == "imgsz":
            before, after = (
                self._dense_map.get(variable.options[i]) for i in (levels[column], level)
            )
            if not before or after is None:
                return None
            return _short(accuracy(point.score) * (after / before - 1))
        if self._losses is None:
            return None
        loss = self._losses[column][level] - self._losses[column][levels[column]]
        return _short(accuracy(point.score) * math.expm1(-loss))


def _losses(problem: Problem, entries: Sequence[Entry]) -> list[Floats] | None:
    """Read the sweep of single variables back from the journal; None if there was none."""
    known = {entry.digest: entry.result for entry in entries if entry.rung == "proxy"}
    variables = problem.space.variables
    probes = plan_probes(variables)
    start_V = np.zeros(len(variables), dtype=np.int64)
    for column, variable in enumerate(variables):
        if variable.name == "imgsz":
            start_V[column] = len(variable.options) - 1  # the sweep is made at the smallest size
    candidates = [problem.space.decode(row) for row in probe_genomes(probes, start_V)]
    results = [known.get(candidate.digest) for candidate in candidates]
    losses = [additive_loss(result) for result in results if result is not None]
    if not probes or len(losses) < len(probes):
        return None
    return loss_table(probes, losses, variables)


def _shares(loss: Floats) -> tuple[float, ...]:
    return tuple(_short(-math.expm1(-value)) for value in loss)


def _label(variable: Variable, option: object) -> str:
    if family_of(variable) == "depth":
        return "there" if option else "dropped"
    if isinstance(option, tuple):
        weight, act = option
        return f"W{weight}A{act}"
    return str(option)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
