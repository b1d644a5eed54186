"""Does a long run stay flat? `python -m benchmarks.soak --minutes 60`.

Searches of the embedded demo, one after the other and as a user's run does them (NSGA-II, journal,
Ray actors; small images so that they are light), with a pause after each evaluation. Every minute a
line says what the driver, the actors and Ray's own processes hold: memory that is theirs alone,
open files, threads; and how many temporary files there are, and how large they and the run are.
At the end: the growth over the second half, in which start-up has no part.

What is recorded (journal, results by key) grows with the evaluations; the last column says how much
of that there is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import psutil
import ray
import typer
from rich.progress import Progress

from search.actors import Pool, RayPool
from search.explorer import Session
from search.front import Point
from search.ledger import Ledger, Outcome, Task
from search.problem import prepare
from search.run import read_settings
from search.study import explore

IMAGES = 8  # a candidate is scored on
LAP = 100  # evaluations of one search, before the next one starts with another seed
GROUPS = ("driver", "actors", "ray")
HELD = tuple(f"{group} {unit}" for group in GROUPS for unit in ("MB", "fds", "thr"))
HEADER = ("minute", "evals", *HELD, "temp files", "temp MB", "run MB")


@dataclass(frozen=True, slots=True)
class Sample:
    """What is held at one moment: the columns of `HEADER`."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        return "".join(
            f"{value:>{len(name) + 3}.{1 if name.endswith('MB') else 0}f}"
            for name, value in zip(HEADER, self.values, strict=True)
        )


class Watched:
    """A pool that rests after each outcome, and takes a sample every so often."""

    def __init__(
        self, pool: Pool, pause_s: float, every_s: float, run: Path, scratch: Path
    ) -> None:
        self._pool = pool
        self._pause_s = pause_s
        self._every_s = every_s
        self._run = run
        self._scratch = scratch
        self._start = time.monotonic()
        self._count = 0
        self.samples: list[Sample] = []

    @property
    def size(self) -> int:
        """Number of tasks carried out at once."""
        return self._pool.size

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield an outcome for every task."""
        for outcome in self._pool.run(tasks):
            yield outcome
            self._count += 1
            time.sleep(self._pause_s)
            elapsed_s = time.monotonic() - self._start
            if elapsed_s >= self._every_s * (len(self.samples) + 1):
                self.samples.append(take(elapsed_s / 60, self._count, self._run, self._scratch))
                print(self.samples[-1], flush=True)

    def close(self) -> None:
        """Let go of the pool."""
        self._pool.close()


def take(minute: float, count: int, run: Path, scratch: Path) -> Sample:
    """Look at this process, all below it, and the temporary files."""
    driver = psutil.Process()
    below = driver.children(recursive=True)
    actors = [p for p in below if "EvaluatorActor" in " ".join(_cmdline(p))]
    others = [p for p in below if p not in actors]
    files = [path for path in scratch.rglob("*") if path.is_file() and run not in path.parents]
    return Sample(
        (minute, count, *held([driver]), *held(actors), *held(others), len(files),
         sum(path.stat().st_size for path in files) / 1e6,
         sum(path.stat().st_size for path in run.iterdir()) / 1e6)
    )  # fmt: skip


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def held(processes: Iterable[psutil.Process]) -> tuple[float, int, int]:
    """Return private memory in MB, open files and threads of some processes together."""
    memory, files, threads = 0.0, 0, 0
    for process in processes:
        try:
            memory += process.memory_full_info().uss / 1e6
            files += process.num_fds()
            threads += process.num_threads()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return memory, files, threads


def growth(samples: list[Sample]) -> str:
    """Say how much each column grew over the second half: by line of best fit, for an hour."""
    late = np.array([sample.values for sample in samples[len(samples) // 2 :]])
    lines = []
    for column, name in enumerate(HEADER[1:], start=1):
        slope, _ = np.polyfit(late[:, 0], late[:, column], 1)
        lines.append(f"{name:>12}: {late[0, column]:10.1f} {60 * slope:+9.1f} an hour")
    return "\n".join(lines)


def main(
    minutes: float = 60,
    actors: int = 2,
    pause: Annotated[float, typer.Option(help="seconds after each evaluation")] = 1.0,
) -> None:
    """Search for so many minutes and print what is held meanwhile."""
    scratch = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))  # a short path: sockets lie there
    os.environ["RAY_TMPDIR"] = os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    base = prepare(
        read_settings(
            {"latency": ("99%",), "target": "jetson-xavier-nx", "imgsz": (160,), "actors": actors,
             "method": "nsga2", "evals": LAP}
        )
    )  # fmt: skip
    build = partial(cast("Any", base.build), validation=base.validation.subset(IMAGES))
    run = scratch / "run"
    run.mkdir()
    print("".join(f"{name:>{len(name) + 3}}" for name in HEADER), flush=True)
    pool = Watched(
        RayPool(build, actors, lambda _: 600.0), pause, min(60.0, 3 * minutes), run, scratch
    )
    stop_at = time.monotonic() + 60 * minutes
    seed = 0
    try:
        with Ledger(run / "journal.jsonl", base.protocol) as ledger:
            while time.monotonic() < stop_at:
                problem = replace(base, settings=base.settings.model_copy(update={"seed": seed}))
                session = Session(ledger, pool, Progress(disable=True), stop_at=stop_at)
                points: dict[str, Point] = {}
                explore(problem, session, points)
                session.results([p.candidate for p in list(points.values())[:1]], "full", "a point")
                seed += 1
    finally:
        pool.close()
        ray.shutdown()
        if len(pool.samples) >= 4:
            print(f"\nsecond half, {len(pool.samples)} samples:\n{growth(pool.samples)}")
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
