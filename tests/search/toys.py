"""Searches without a network: real spaces and real costs, a formula in place of the evaluation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from rich.progress import Progress

from evaluators.score import Failed, Score
from search.explorer import Explorer, Session, Stop
from search.front import Point
from search.ledger import Outcome, Task
from search.methods import METHODS
from search.problem import Problem, prepare
from search.run import read_settings
from search.settings import resolve_limits
from spaces.space import SearchSpace

DENSE_MAP = 0.6
Loss = Callable[[np.ndarray], float]
"""Genome [V] -> additive loss, 0 for dense."""


@cache
def demo_problem(target: str = "jetson-xavier-nx") -> Problem:
    return prepare(read_settings({"latency": ("99%",), "target": target, "imgsz": (320, 256)}))


def toy_problem(groups: int = 4, layers: int = 3, levels: int = 4, **given: object) -> Problem:
    """The demo model with few variables: two input sizes, some groups, bits of some layers."""
    whole = demo_problem()
    network = whole.space.network
    wide = sorted(network.groups, key=lambda group: -group.size)[:groups]
    steps = np.linspace(1, 0.25, levels)
    free = [layer.name for layer in network.layers if layer.name not in network.ignored]
    space = SearchSpace(
        network,
        (320, 256),
        levels={g.name: tuple(round(g.size * s / 8) * 8 for s in steps) for g in wide},
        bits={name: ((16, 16), (8, 8)) for name in free[:: len(free) // layers][:layers]},
    )
    settings = read_settings({"target": "jetson-xavier-nx", **given})
    dense = whole.model.predict(space.workload(space.dense))
    return replace(whole, settings=settings, space=space, limits=resolve_limits(settings, dense))


@dataclass
class MemoryLedger:
    """Results by key, on no disk."""

    results: dict[tuple[str, str], Score | Failed] = field(default_factory=dict)
    asks: dict[tuple[str, str], int] = field(default_factory=dict)

    def knows(self, task: Task, asks: int = 0) -> bool:
        return task.key in self.results

    def record(self, outcome: Outcome, asks: int = 0) -> None:
        self.results[outcome.task.key] = outcome.result
        self.asks[outcome.task.key] = asks


@dataclass
class FormulaPool:
    """Scores candidates by a formula; no two calls for the same one."""

    problem: Problem
    loss: Loss
    size: int = 1
    seen: set[tuple[str, str]] = field(default_factory=set)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        for task in filter(None, tasks):
            assert task.key not in self.seen, "evaluated twice"
            self.seen.add(task.key)
            yield Outcome(task, self.score(task), 0.0, "toy")

    def score(self, task: Task) -> Score:
        kept = float(np.exp(-self.loss(self.problem.space.encode(task.candidate))))
        smaller = (task.candidate.imgsz / self.problem.sizes[0]) ** 0.5
        accuracy = None if task.rung == "proxy" else DENSE_MAP * kept * smaller
        return Score(accuracy, accuracy, 1 - kept, 1 - (1 - kept) ** 0.5, 4, task.rung)

    def close(self) -> None:
        pass


def explore(problem: Problem, loss: Loss) -> Explorer:
    """Run the method of the settings to its end."""
    pool = FormulaPool(problem, loss)
    session = Session(MemoryLedger(), pool, Progress(disable=True))  # type: ignore[arg-type]
    points: dict[str, Point] = {}
    explorer = Explorer(problem, session, points)
    with contextlib.suppress(Stop):
        METHODS[problem.settings.method](explorer)
    return explorer


def additive(problem: Problem, seed: int = 0, bend: float = 0.0) -> Loss:
    """Losses that rise with the level, different for each variable; `bend` couples neighbours."""
    random = np.random.default_rng(seed)
    upper_V = np.asarray(problem.space.upper)
    names = [variable.name for variable in problem.space.variables]
    weight_V = random.exponential(0.1, len(upper_V)) * [name != "imgsz" for name in names]

    def loss(genome: np.ndarray) -> float:
        share_V = genome / upper_V
        own_V = weight_V * share_V**1.5
        return float(own_V.sum() + bend * (own_V[1:] * own_V[:-1]).sum() ** 0.5)

    return loss


def all_genomes(problem: Problem) -> np.ndarray:
    return np.array(list(itertools.product(*(range(u + 1) for u in problem.space.upper))))


def true_objectives(problem: Problem, loss: Loss, genomes_NV: np.ndarray) -> np.ndarray:
    """Objectives [N, 2] of genomes by the formula and the cost model."""
    pool = FormulaPool(problem, loss)
    scores = [pool.score(Task(problem.space.decode(x), "subset")) for x in genomes_NV]
    lost_N = np.array([1.0 - (score.map50_95 or 0.0) for score in scores])
    return np.stack([lost_N, problem.latency_ms(genomes_NV)], axis=1)
