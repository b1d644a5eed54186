"""A whole run in seconds: real space, costs and journal, a formula in place of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
from rich.progress import Progress

from evaluators.score import Details, Score
from search.explorer import Session
from search.front import Point
from search.ledger import Ledger, Task
from search.measure import Timed
from search.outputs import Result, write_outputs
from search.problem import Problem
from search.report import write_report
from search.run_folder import RunFolder
from search.status import write_status
from search.study import explore, score_dense, verify
from tests.search.toys import FormulaPool, additive, toy_problem


@dataclass
class DetailedPool(FormulaPool):
    """Full scores have details, as those of a real evaluator."""

    def score(self, task: Task) -> Score:
        size, smallest = task.candidate.imgsz, self.problem.sizes[-1]
        if size not in self.problem.sizes:  # the dense model, scaled further for comparison
            known = super().score(Task(replace(task.candidate, imgsz=smallest), task.rung))
            value = (known.map50_95 or 0.0) * (size / smallest) ** 0.5
            score = replace(known, map50_95=value, map50=value)
        else:
            score = super().score(task)
        if task.rung != "full" or score.map50_95 is None:
            return score
        middle = score.map50_95
        names = self.problem.validation.names
        details = Details(
            small=middle / 2,
            medium=None,
            large=middle,
            per_class=tuple((name, middle * (1 - 0.01 * i)) for i, name in enumerate(names)),
            seen=tuple(((0.1, 0.1, 0.5, 0.6, 0.9, i),) for i in range(6)),
        )
        resampled = tuple(middle + 0.01 * (i % 3) for i in range(24))
        return replace(score, details=details, resampled=resampled)


@dataclass(frozen=True)
class Searched:
    run: RunFolder
    problem: Problem
    result: Result
    points: list[Point]


@pytest.fixture(scope="session")
def run_toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Searched]:
    """Return a function that searches the toy problem with some settings and writes everything."""

    def search(measured: bool = False, **given: object) -> Searched:
        run = RunFolder(tmp_path_factory.mktemp("runs") / "exp")
        run.path.mkdir()
        problem = toy_problem(**{"latency": ("80%", "99s"), "evals": 40, **given})
        run.write_study(problem.settings, {"protocol": problem.protocol, "imgsz": [320, 256]})
        points: dict[str, Point] = {}
        with Ledger(run.journal, problem.protocol) as ledger:
            session = Session(
                ledger,
                DetailedPool(problem, additive(problem)),
                Progress(disable=True),
                note=partial(write_status, run),
            )
            dense = score_dense(problem, session)
            explore(problem, session, points)
            front = verify(problem, session, list(points.values()))
        timed = None
        if measured:
            timed = {
                p.candidate.digest: Timed(0.9 * p.cost.latency_ms, 0.01, 1.0, "orin-7", "f" * 64)
                for p in (dense[0], *front[::2])
            }
        exported = {"dense": 0.6, front[-1].id: 0.6}
        result = Result(tuple(front), tuple(dense), problem.limits, exported, timed)
        write_outputs(run, problem, result)
        write_report(run, problem, result, list(points.values()))
        return Searched(run, problem, result, list(points.values()))

    return search


@pytest.fixture(scope="session")
def searched(run_toy: Callable[..., Searched]) -> Searched:
    """Return a toy run by the default method."""
    return run_toy(energy="90%")
