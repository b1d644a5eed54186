"""How fast a search goes: `python -m benchmarks.throughput`.

Candidate evaluations a second (32 images each, without --weights and --data of the embedded demo),
pool efficiency (busy time of the actors over wall time), both by the number of actors, and
candidates priced a second by the cost model on one core, genome to latency. All candidates are
different and moderately pruned. Networks that are large enough for GPUs (`GPU_FROM_MACS`) are
evaluated there; to measure CPUs, hide the GPUs: `CUDA_VISIBLE_DEVICES=`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from evaluators.device import CPU, default_device
from evaluators.score import Score
from search.actors import KEPT_MEMORY, RayPool
from search.evaluating import Build, Evaluates, use_one_thread
from search.ledger import Task
from search.problem import Problem, prepare
from search.run import read_settings
from search.seeding import sparse_random

EVALUATIONS = 48
PRICED = 100_000


def main(
    actors: Annotated[str, typer.Option(help="numbers of actors")] = "1,2",
    weights: str = "demo",
    data: str = "demo",
    imgsz: int = 320,
) -> None:
    """Measure and print."""
    given = {
        "weights": weights,
        "data": data,
        "imgsz": (imgsz,),
        "latency": ("90%",),
        "target": "jetson-xavier-nx",
    }
    problem = prepare(read_settings(given))
    device = default_device() if problem.use_gpus else CPU
    table = Table(title=f"{weights}, {imgsz} px, on {device.type}")
    for header in ("actors", "evaluations/s", "an actor", "times one", "pool efficiency"):
        table.add_column(header, justify="right")
    first = None
    for count in map(int, actors.split(",")):
        rate, efficiency = evaluation_rate(problem, count)
        first = first or rate
        cells = (f"{rate:.2f}", f"{rate / count:.2f}", f"{rate / first:.2f}", f"{efficiency:.1%}")
        table.add_row(str(count), *cells)
    Console().print(table, f"candidates priced/s, one core: {pricing_rate(problem):,.0f}")


def evaluation_rate(problem: Problem, actors: int) -> tuple[float, float]:
    """Return evaluations a second of the whole pool, and the share of time its actors were busy."""
    tasks = make_tasks(problem, max(EVALUATIONS, 8 * actors) + actors)
    pool = RayPool(problem.build, actors, lambda _: 600.0, problem.use_gpus)
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
    typer.run(main)
