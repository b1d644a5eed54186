"""How fast a search goes: `python -m benchmarks.throughput`.

On the embedded demo (320 px, 32 images a candidate): candidate evaluations a second an actor, pool
efficiency (busy time of the actors over wall time) with 1 and 2 actors, and candidates priced a
second by the cost model on one core, genome to latency. All candidates are different and moderately
pruned.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluators.score import Score
from search.actors import KEPT_MEMORY, RayPool
from search.evaluating import Build, Evaluates, use_one_thread
from search.ledger import Task
from search.problem import Problem, prepare
from search.run import read_settings
from search.seeding import sparse_random

EVALUATIONS = 48
PRICED = 100_000


def main() -> None:
    """Measure and print."""
    problem = prepare(read_settings({"latency": ("30ms",), "target": "jetson-xavier-nx"}))
    table = Table(title="demo, 320 px, jetson-xavier-nx")
    for header in ("what", "figure"):
        table.add_column(header, justify="left" if header == "what" else "right")
    for actors in (1, 2):
        rate, efficiency = evaluation_rate(problem, actors)
        table.add_row(f"evaluations/s per actor, {actors} actor(s)", f"{rate / actors:.2f}")
        table.add_row(f"pool efficiency, {actors} actor(s)", f"{efficiency:.1%}")
    table.add_row("candidates priced/s, one core", f"{pricing_rate(problem):,.0f}")
    Console().print(table)


def evaluation_rate(problem: Problem, actors: int) -> tuple[float, float]:
    """Return evaluations a second of the whole pool, and the share of time its actors were busy."""
    tasks = make_tasks(problem, EVALUATIONS + actors)
    pool = RayPool(problem.build, actors, lambda _: 600.0)
    list(pool.run(tasks[:actors]))  # actors are up, images decoded
    start = time.perf_counter()
    outcomes = list(pool.run(tasks[actors:]))
    wall_s = time.perf_counter() - start
    pool.close()
    assert all(isinstance(outcome.result, Score) for outcome in outcomes)
    busy_s = sum(outcome.seconds for outcome in outcomes)
    return len(outcomes) / wall_s, busy_s / (wall_s * actors)


def plain_rate(problem: Problem, processes: int) -> float:
    """Return evaluations a second of plain processes, without Ray: what the machine can do."""
    first, *tasks = make_tasks(problem, EVALUATIONS + 1)
    os.environ.update(KEPT_MEMORY)  # as actors have it
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with context.Pool(processes, _prepare, (problem.build, first, ready)) as pool:
        pool.map(_evaluate, [first], chunksize=1)  # all are up
        start = time.perf_counter()
        pool.map(_evaluate, tasks, chunksize=1)
        return len(tasks) / (time.perf_counter() - start)


_evaluators: list[Evaluates] = []
"""Of this process: one."""


def _prepare(build: Build, first: Task, ready: Barrier) -> None:
    use_one_thread()
    _evaluators.append(build())
    _evaluate(first)  # images decoded
    ready.wait()


def _evaluate(task: Task) -> None:
    assert isinstance(_evaluators[0].evaluate(task.candidate, task.rung), Score)


def make_tasks(problem: Problem, count: int) -> list[Task]:
    """Return different, moderately pruned candidates."""
    upper_V = np.asarray(problem.space.upper)
    genomes_NV = sparse_random(count, upper_V, np.random.default_rng(0))
    return [Task(problem.space.decode(genome), "subset") for genome in genomes_NV]


def pricing_rate(problem: Problem) -> float:
    """Return candidates priced a second, from genome to latency."""
    upper_V = np.asarray(problem.space.upper)
    genomes_NV = np.random.default_rng(0).integers(0, upper_V + 1, (PRICED, len(upper_V)))
    problem.latency_ms(genomes_NV[:100])
    start = time.perf_counter()
    problem.latency_ms(genomes_NV)
    return PRICED / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
