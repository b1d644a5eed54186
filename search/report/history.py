"""How a search went, from its journal alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from evaluators.score import Failed
from search.front import Front, Point, hypervolume
from search.journal import Entry
from search.problem import Problem, accuracy
from search.report.value import History

RUNGS = ("proxy", "subset", "full")


def history_of(entries: Sequence[Entry], problem: Problem, explored: Sequence[Point]) -> History:
    """Return how the search went.

    Args:
        entries: The journal.
        problem: What was searched.
        explored: The points scored on the subset, with their costs.
    """
    start = entries[0].time - entries[0].seconds if entries else 0.0
    dense = problem.cost(problem.dense())
    reference_M = np.array(
        problem.objectives_of(0.0, dense.latency_ms, dense.energy_mj, dense.size_bytes)
    )
    points = {point.candidate.digest: point for point in explored}
    front = Front[str](problem.objective_count)
    best: dict[str, list[float | None]] = {limit.text: [] for limit in problem.limits}
    minutes, volumes, volume = list[float](), list[float](), 0.0
    for entry in entries:
        point = points.get(entry.digest) if entry.rung == "subset" else None
        if point is None:
            continue
        before_NM = front.F_NM
        front.add(problem.objectives(point.cost, point.score), point.id)
        if front.F_NM is not before_NM:
            volume = round(hypervolume(front.F_NM, reference_M), 5)
        minutes.append(round((entry.time - start) / 60, 3))
        volumes.append(volume)
        for limit in problem.limits:
            before = best[limit.text][-1] if best[limit.text] else None
            this = accuracy(point.score) if limit.affordable(point.cost) else None
            known = [value for value in (before, this) if value is not None]
            best[limit.text].append(max(known, default=None))
    by_rung = {rung: {e.digest for e in entries if e.rung == rung} for rung in RUNGS}
    own = [entry for entry in entries if not entry.is_reused]
    return History(
        minutes=tuple(minutes),
        hypervolume=tuple(volumes),
        best={text: tuple(values) for text, values in best.items()},
        rungs={rung: len(digests) for rung, digests in by_rung.items()},
        promoted={low: len(by_rung[low] & by_rung[high]) for low, high in pairwise(RUNGS)},
        failures=dict(Counter(e.result.kind for e in entries if isinstance(e.result, Failed))),
        seconds={
            rung: round(sum(e.seconds for e in entries if e.rung == rung), 1) for rung in RUNGS
        },
        workers=dict(Counter(entry.where for entry in own)),
        reused=len(entries) - len(own),
        elapsed_s=round(entries[-1].time - start, 1) if entries else 0.0,
    )
