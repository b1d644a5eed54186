"""Overlapping generations: evaluators that end in any order, real journals, formula results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from search.explorer import Explorer, OutOfTime, Session, Spent, Stop
from search.ledger import Ledger, Outcome, Task
from search.methods import METHODS
from search.problem import Problem
from search.steady import evolve
from tests.search.toys import FormulaPool, MemoryLedger, additive, all_genomes, toy_problem

BUDGETS = ("85%", "92%")


@dataclass
class UnevenPool(FormulaPool):
    """Several evaluators that take tasks when they are idle, and end in a random order."""

    size: int = 3
    seed: int = 0
    most: int = 0  # tasks under way at once

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        random = np.random.default_rng(self.seed)
        source = iter(tasks)
        flying = list[Task]()
        more = True
        while more or flying:
            while more and len(flying) < self.size:
                task = next(source, "none left")
                more = task != "none left"
                if not isinstance(task, Task):
                    break
                assert task.key not in self.seen, "evaluated twice"
                self.seen.add(task.key)
                flying.append(task)
            self.most = max(self.most, len(flying))
            if flying:
                task = flying.pop(int(random.integers(len(flying))))
                yield Outcome(task, self.score(task), 0.0, "uneven")


def problem_of(method: str, evals: int = 90) -> Problem:
    return toy_problem(latency=BUDGETS, method=method, evals=evals, seed=2)


def run(problem: Problem, pool: FormulaPool, journal: Path) -> tuple[Explorer, dict]:
    """Run the method of the settings to its end; return also the asks before each result."""
    with Ledger(journal, "study") as ledger:
        explorer = Explorer(problem, Session(ledger, pool, Progress(disable=True)), {})
        with contextlib.suppress(Stop):
            METHODS[problem.settings.method](explorer)
        return explorer, {key: ledger.asks[key] for key in ledger.results if key[1] == "subset"}


def pool_of(problem: Problem, kind: type[FormulaPool], **given: int) -> FormulaPool:
    return kind(problem, additive(problem, bend=1.0), **given)


@pytest.mark.parametrize("method", ["nsga2", "paretrim"])
def test_nobody_waits_for_the_last_of_a_generation(tmp_path: Path, method: str) -> None:
    problem = problem_of(method)
    pool = pool_of(problem, UnevenPool)
    explorer, asks = run(problem, pool, tmp_path / "journal.jsonl")
    assert len(explorer.scored) <= problem.settings.evals
    assert len(explorer.points) == len(asks)  # nothing that was under way is lost
    order = list(asks.values())
    assert order == sorted(order)
    assert pool.most == 3


@pytest.mark.parametrize("method", ["nsga2", "paretrim"])
def test_a_finished_run_is_told_the_same_again(tmp_path: Path, method: str) -> None:
    problem = problem_of(method)
    first, _ = run(problem, pool_of(problem, UnevenPool), tmp_path / "journal.jsonl")
    before = (tmp_path / "journal.jsonl").read_bytes()
    again, _ = run(problem, pool_of(problem, FormulaPool), tmp_path / "journal.jsonl")
    assert (tmp_path / "journal.jsonl").read_bytes() == before  # nothing was evaluated
    assert again.scored == first.scored
    assert list(again.points) == list(first.points)


@pytest.mark.parametrize("seed", range(6))
def test_a_stopped_run_uses_all_it_knew(tmp_path: Path, seed: int) -> None:
    problem = problem_of("nsga2")
    journal = tmp_path / "journal.jsonl"
    run(problem, pool_of(problem, UnevenPool, size=4, seed=seed), journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = int(np.random.default_rng(seed).integers(2, len(lines)))
    journal.write_bytes(b"".join(lines[:kept]))
    kind, given = (FormulaPool, {}) if seed % 2 else (UnevenPool, {"size": 2, "seed": seed + 1})
    resumed, asks = run(problem, pool_of(problem, kind, **given), journal)
    assert journal.read_bytes().splitlines(keepends=True)[:kept] == lines[:kept]
    assert len(resumed.points) == len(asks) == problem.settings.evals  # no result lies unused


def test_chance_changes_little_in_the_end() -> None:
    volumes = []
    for seed in range(5):  # of the search, and of who is done when
        problem = toy_problem(
            groups=10, layers=8, levels=6, latency=("75%", "85%", "92%"), evals=60, seed=seed
        )
        pool = UnevenPool(problem, additive(problem, seed=3, bend=2.0), size=4, seed=seed + 10)
        session = Session(MemoryLedger(), pool, Progress(disable=True))  # type: ignore[arg-type]
        explorer = Explorer(problem, session, {})
        with pytest.raises(Stop):
            METHODS["paretrim"](explorer)
        volumes.append(explorer.hypervolume())
    assert np.ptp(volumes) <= 0.03 * np.mean(volumes)


def test_one_evaluator_goes_generation_by_generation(tmp_path: Path) -> None:
    problem = problem_of("nsga2", evals=80)
    sizes = list[int]()
    with Ledger(tmp_path / "journal.jsonl", "study") as ledger:
        session = Session(ledger, pool_of(problem, FormulaPool), Progress(disable=True))
        explorer = Explorer(problem, session, {})
        genomes_NV = all_genomes(problem)[:: 4096 // 80]
        batches = iter(genomes_NV[start : start + 7] for start in range(0, 200, 7))
        with pytest.raises(Spent):
            evolve(explorer, lambda: next(batches), lambda x, _: sizes.append(len(x)), "a", "b")
    assert sizes == [7] * 11 + [3]
    assert [p.method for p in explorer.points.values()] == ["a"] * 7 + ["b"] * 73


def test_what_is_under_way_when_time_is_out_is_kept(tmp_path: Path) -> None:
    problem = problem_of("nsga2")
    pool = pool_of(problem, UnevenPool)
    with Ledger(tmp_path / "journal.jsonl", "study") as ledger:
        session = Session(ledger, pool, Progress(disable=True))
        session.stop_at, session.clock = 40.0, lambda: float(len(pool.seen))
        explorer = Explorer(problem, session, {})
        with pytest.raises(OutOfTime):
            METHODS["nsga2"](explorer)
        assert len(explorer.points) == len(ledger.results) == 40
