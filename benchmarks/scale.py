"""Does a search use all the actors it has? `python -m benchmarks.scale`.

First the real thing: evaluations of the embedded demo (320 px, 32 images) by 1 and 2 actors, and by
as many plain processes, which have no pool to wait for: what they gain is what the machine allows.
All do the same candidates, by turns. Then simulated evaluations of about a second (0.05 to 5 s with
a heavy tail, 2 % of them fail) by many actors on one machine, with the journal as in a search.
Efficiency is the time spent in evaluations over that of all actors; "while work lasts" leaves out
the end, in which the last stragglers are waited for. Printed, too: what the driver's processor does
for an evaluation, and how far its memory grows.

What proposing candidates costs as populations and journals grow: `python -m benchmarks.overhead`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import ray
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.sleeper import Sleeper
from benchmarks.throughput import evaluation_rate, plain_rate
from search.actors import RayPool
from search.ledger import Ledger, Outcome, Task
from search.problem import Problem, prepare
from search.run import read_settings
from search.seeding import sparse_random

ROOT = Path(__file__).resolve().parents[1]
ACTOR_MB = 61  # that an actor without torch held for itself, when looked at
SPARE_MB = 3000


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement.

    Attributes:
        actors: How many.
        mean_s: What an evaluation took on average.
        efficiency: Busy time over the time of all actors.
        lasting: The same until the last task was handed out.
        rate: Evaluations a second.
        cpu_ms: Processor time of the driver for an evaluation.
        growth_kb: Resident memory that the driver gained for an evaluation.
    """

    actors: int
    mean_s: float
    efficiency: float
    lasting: float
    rate: float
    cpu_ms: float
    growth_kb: float


def simulated(tasks: Sequence[Task], actors: int, mean_s: float, folder: Path) -> Run:
    """Measure a pool of so many actors that sleep."""
    ray.init(
        num_cpus=actors, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    try:
        build: Any = partial(Sleeper, mean_s)
        pool = RayPool(build, actors, lambda _: 600.0)
        warm = [Task(task.candidate, "proxy") for task in tasks[: 2 * actors]]
        up = set[str]()
        while len(up) < actors:
            up.update(outcome.where for outcome in pool.run(warm))
        process = psutil.Process()
        memory, cpu_s, start = process.memory_info().rss, time.process_time(), time.perf_counter()
        ends: list[tuple[float, Outcome]] = []
        with Ledger(folder / f"journal-{actors}.jsonl", "scale") as ledger:
            for outcome in pool.run(tasks):
                ledger.record(outcome)
                ends.append((time.perf_counter() - start, outcome))
        wall_s, cpu_s = ends[-1][0], time.process_time() - cpu_s
        memory = process.memory_info().rss - memory
        pool.close()
    finally:
        ray.shutdown()
    return Run(
        actors,
        mean_s=float(np.mean([outcome.seconds for _, outcome in ends])),
        efficiency=busy_s(ends, wall_s) / (wall_s * actors),
        lasting=while_work_lasts(ends, actors),
        rate=len(ends) / wall_s,
        cpu_ms=1e3 * cpu_s / len(ends),
        growth_kb=memory / 1e3 / len(ends),
    )


def busy_s(ends: Sequence[tuple[float, Outcome]], until_s: float) -> float:
    """Return the time that went into evaluations until then."""
    return sum(
        min(outcome.seconds, max(0.0, until_s - (end - outcome.seconds))) for end, outcome in ends
    )


def while_work_lasts(ends: Sequence[tuple[float, Outcome]], actors: int) -> float:
    """Return the efficiency until the last task was handed out: when all but `actors` had ended."""
    until_s = ends[-actors - 1][0]
    return busy_s(ends, until_s) / (until_s * actors)


def real_evaluations(problem: Problem, rounds: int) -> Table:
    """Measure real evaluations by turns, by actors and by as many plain processes."""
    actors: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    plain: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count in (1, 2):
            actors[count].append(evaluation_rate(problem, count))
            plain[count].append(plain_rate(problem, count))
    table = Table("at once", "actors", "busy", "plain processes", title="real evaluations a second")
    for count in (1, 2):
        rate, busy = np.median(actors[count], axis=0)
        table.add_row(f"{count}", f"{rate:.2f}", f"{busy:.1%}", f"{np.median(plain[count]):.2f}")
    of_actors = np.array(actors[2])[:, 0] / np.array(actors[1])[:, 0]
    of_plain = np.array(plain[2]) / np.array(plain[1])
    table.add_row("speed-up", f"{np.median(of_actors):.2f}", "", f"{np.median(of_plain):.2f}")
    return table


def candidates(problem: Problem, count: int) -> list[Task]:
    """Return different candidates of a real space."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, str], Task] = {}
    while len(found) < count:
        for genome in sparse_random(1000, np.asarray(problem.space.upper), random):
            task = Task(problem.space.decode(genome), "subset")
            found[task.key] = task
    return list(found.values())[:count]


def main(
    real: Annotated[bool, typer.Option(help="measure real evaluations, too")] = True,
    actors: Annotated[str, typer.Option(help="of simulated evaluations")] = "2,16,64,256",
    each: Annotated[int, typer.Option(help="simulated evaluations for every actor")] = 60,
    mean: Annotated[float, typer.Option(help="seconds of a simulated evaluation, about")] = 1.0,
    rounds: Annotated[int, typer.Option(help="of the real evaluations; the medians count")] = 3,
) -> None:
    """Measure and print."""
    console = Console(width=110)
    problem = prepare(read_settings({"latency": ("30ms",), "target": "jetson-xavier-nx"}))
    if real:
        console.print(real_evaluations(problem, rounds))
        ray.shutdown()
    table = Table(
        "actors", "mean s", "efficiency", "while work lasts", "evaluations/s", "driver ms each",
        "memory kB each", title="simulated evaluations",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, actors.split(",")):
            if (free_mb := psutil.virtual_memory().available / 1e6) < count * ACTOR_MB + SPARE_MB:
                console.print(f"{count} actors: left out, {free_mb:.0f} MB of memory are free")
                continue
            run = simulated(candidates(problem, count * each), count, mean, Path(folder))
            table.add_row(
                f"{run.actors}", f"{run.mean_s:.2f}", f"{run.efficiency:.1%}", f"{run.lasting:.1%}",
                f"{run.rate:.1f}", f"{run.cpu_ms:.1f}", f"{run.growth_kb:.1f}",
            )  # fmt: skip
            console.print(table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
