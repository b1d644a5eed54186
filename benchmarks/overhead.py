"""What the driver itself costs: `python -m benchmarks.overhead`.

The whole search but for the evaluations: a real space and cost model, the sensitivity sweep, exact
seeds, surrogate, optimizer, archive and journal (fsynced, on the disk of `--folder`). A formula
stands in for the network, and its time is taken off. Printed are wall and processor time a
candidate between some sizes of the archive, and the memory held there.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluators.score import Score
from search.explorer import Explorer, Session, Stop
from search.ledger import Ledger, Outcome, Task
from search.methods import METHODS
from search.problem import Problem, prepare
from search.run import read_settings

MARKS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # sizes of the archive


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the search stood.

    Attributes:
        candidates: Scored so far.
        wall_s: Since the start, evaluations taken off.
        cpu_s: The same of processor time.
        memory_mb: Held by the process.
    """

    candidates: int
    wall_s: float
    cpu_s: float
    memory_mb: float


class SimulatedPool:
    """Scores candidates by a formula in which neighbouring variables hurt each other.

    Args:
        problem: Whose candidates come.
    """

    size = 1

    def __init__(self, problem: Problem) -> None:
        random = np.random.default_rng(0)
        self._problem = problem
        self._upper_V = np.maximum(np.asarray(problem.space.upper), 1)
        self._weight_V = random.exponential(0.1, len(self._upper_V))
        self._noise = np.random.default_rng(1)
        self.wall_s = self.cpu_s = 0.0
        self.scored = 0
        self.marks: list[Mark] = []

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in their order."""
        for task in filter(None, tasks):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            outcome = Outcome(task, self._score(task), 0.0, "simulated")
            if task.rung == "subset":
                self._note()
            self.wall_s += time.perf_counter() - wall_s
            self.cpu_s += time.process_time() - cpu_s
            yield outcome

    def _note(self) -> None:
        self.scored += 1
        if self.scored in MARKS:
            wall_s = time.perf_counter() - self.wall_s
            cpu_s = time.process_time() - self.cpu_s
            self.marks.append(Mark(self.scored, wall_s, cpu_s, memory_mb()))

    def _score(self, task: Task) -> Score:
        share_V = self._problem.space.encode(task.candidate) / self._upper_V
        own_V = self._weight_V * share_V**1.5
        loss = own_V.sum() + (own_V[1:] * own_V[:-1]).sum() ** 0.5
        kept = float(np.exp(-loss))
        accuracy = 0.5 * kept * float(self._noise.uniform(0.95, 1.05))
        found = None if task.rung == "proxy" else accuracy
        return Score(found, found, 1 - kept, 1 - (1 - kept) ** 0.5, 16, task.rung)

    def close(self) -> None:
        """Nothing to let go of."""


def memory_mb() -> float:
    """Return the resident memory of this process."""
    return float(psutil.Process().memory_info().rss / 1e6)


def measure(problem: Problem, folder: Path) -> list[Mark]:
    """Search with simulated evaluations and return how the driver did on the way.

    Args:
        problem: What is searched; its settings say how, and with how many evaluations.
        folder: Where the journal goes.
    """
    # A formula is soon solved; here it is to go on.
    importlib.import_module("search.methods.paretrim").PATIENCE = 10**9  # type: ignore[attr-defined]
    pool = SimulatedPool(problem)
    with Ledger(folder / "journal.jsonl", "overhead") as ledger:
        explorer = Explorer(problem, Session(ledger, pool, Progress(disable=True)), {})
        with suppress(Stop):
            METHODS[problem.settings.method](explorer)
    return pool.marks


def main(
    evals: int = 10_000,
    method: str = "paretrim",
    weights: str = "demo",
    data: str = "demo",
    imgsz: str = "320,256",
    target: str = "jetson-xavier-nx",
    latency: str = "60%,70%,80%,90%",
    size: Annotated[str | None, typer.Option(help="a further budget, a third objective")] = None,
    folder: Annotated[Path | None, typer.Option(help="where the journal goes")] = None,
) -> None:
    """Print the driver's time a candidate."""
    given = {
        "weights": weights,
        "data": data,
        "imgsz": tuple(map(int, imgsz.split(","))),
        "target": target,
        "latency": tuple(latency.split(",")),
        "size": size,
        "method": method,
        "evals": evals,
        "actors": 0,
    }
    problem = prepare(read_settings({k: v for k, v in given.items() if v is not None}))
    with tempfile.TemporaryDirectory(dir=folder) as journal:
        marks = measure(problem, Path(journal))
    table = Table("candidates", "wall ms each", "cpu ms each", "memory MB")
    for before, after in zip([None, *marks], marks, strict=False):
        if before is None:
            table.add_row(f"{after.candidates:,}", "", "", f"{after.memory_mb:.0f}")
            continue
        count = after.candidates - before.candidates
        wall_ms = 1e3 * (after.wall_s - before.wall_s) / count
        cpu_ms = 1e3 * (after.cpu_s - before.cpu_s) / count
        cells = (f"{wall_ms:.2f}", f"{cpu_ms:.2f}", f"{after.memory_mb:.0f}")
        table.add_row(f"{before.candidates:,}–{after.candidates:,}", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
