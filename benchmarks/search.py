"""How fast each method gets how far: `python -m benchmarks.search`.

Every method searches the same problem with the same evaluation code, each with a journal of its own
that looks into those of the others: what two of them ask for is evaluated once. An evaluation is
one look at one candidate, whether on the proxy or the subset rung: the sensitivity sweep counts,
and so does what another method has evaluated already. Printed are the hypervolume (loss of the
subset's mAP against latency) after some numbers of evaluations, and for each budget the mAP on all
validation images of the method's pick, beside that of the uncompressed model at smaller inputs; the
spread is (largest - smallest) / mean of the last hypervolumes of the seeds, busy the share of time
that evaluators evaluated between the first and the last mAP.

Run again with the same `--output` it goes on where it stopped: nothing is evaluated twice. What one
device's run evaluated, the run of another one finds by `--reuse`.

`docs/search.md` has what was run with the classic YOLOv5n, of which an evaluation takes 1.4 s of a
core at 416 and 320 px, and 1.9 s at 640 to 320 px.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluators.score import Score
from search.actors import InProcessPool, Pool, RayPool
from search.explorer import Explorer, Genomes, Result, Session, Stop
from search.front import Point, pick
from search.journal import read_entries
from search.ledger import Ledger, Task
from search.methods import METHODS
from search.problem import Problem, accuracy, prepare
from search.run import read_settings
from search.study import smooth_accuracy

log = logging.getLogger(__name__)

BUDGETS = "60%,65%,70%,80%,90%"
METHODS_AND_EVALUATIONS = (
    "paretrim=600,milp=300,dp=300,spdy=700,random=400,eagleeye=400,netadapt=400,hawq=200,halp=200,"
    "uniform=100,nsga2=3000"
)
FINALISTS = 2  # points a budget that are scored on all images
MARKS = (50, 100, 200, 300, 400, 600, 1000, 2000, 3000)  # evaluations at which the table looks


class Counted(Explorer):
    """An explorer in which probes count as evaluations, and that notes the hypervolume after each.

    Attributes:
        curve: (evaluations, hypervolume) after every generation.
        best_after: For each budget the same with the best mAP within it.
    """

    def __init__(self, problem: Problem, session: Session, points: dict[str, Point]) -> None:
        super().__init__(problem, session, points)
        self.probes = 0
        self.curve: list[tuple[int, float]] = []
        self.best_after: list[tuple[int, list[float]]] = []

    @property
    def left(self) -> int:
        """How many evaluations are left, probes counted."""
        return max(0, super().left - self.probes)

    def probe(self, genomes_NV: Genomes, title: str) -> list[Result]:
        """Count probes as evaluations."""
        results = super().probe(genomes_NV, title)
        self.probes += len(genomes_NV)
        return results

    def take_in(
        self,
        genomes: Sequence[Genomes],
        tasks: Sequence[Task],
        results: Sequence[Result],
        method: str,
    ) -> None:
        """Note how far the front has come."""
        super().take_in(genomes, tasks, results, method)
        spent = self.probes + len(self.scored)
        self.curve.append((spent, self.hypervolume()))
        self.best_after.append((spent, list(self.best.values())))


def main(
    methods: Annotated[str, typer.Option(help="METHOD=EVALUATIONS,...")] = METHODS_AND_EVALUATIONS,
    seeds: str = "0",
    weights: str = "demo",
    data: str = "demo",
    imgsz: str = "320,256",
    target: str = "jetson-xavier-nx",
    latency: str = BUDGETS,
    actors: Annotated[int, typer.Option(help="evaluation actors; 0: in this process")] = 0,
    minutes: Annotated[float, typer.Option(help="stop evaluating after so long")] = float("inf"),
    reuse: Annotated[list[Path] | None, typer.Option(help="output of another benchmark")] = None,
    output: Annotated[Path, typer.Option(help="journal and curves")] = Path("runs/bench-search"),
) -> None:
    """Run every method for every seed and print how far each got."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop_at = time.monotonic() + 60 * minutes
    given = {
        "weights": weights,
        "data": data,
        "imgsz": tuple(map(int, imgsz.split(","))),
        "target": target,
        "latency": tuple(latency.split(",")),
        "actors": actors,
    }
    base = prepare(read_settings(given))
    output.mkdir(parents=True, exist_ok=True)
    pool: Pool = InProcessPool(base.build)
    if actors:
        pool = RayPool(base.build, actors, lambda task: 600.0, base.use_gpus)
    with Ledger(output / "sizes.jsonl", base.protocol) as ledger:
        session = Session(ledger, pool, Progress(disable=True))
        runs = [input_size_alone(base, session)]
    for asked in methods.split(","):
        method, evals = asked.split("=")
        for seed in map(int, seeds.split(",")):
            asked_for = {"method": method, "seed": seed, "evals": int(evals)}
            problem = replace(base, settings=read_settings({**given, **asked_for}))
            folder = output / f"{method}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            others = [
                journal
                for place in (output, *(reuse or ()))
                for journal in sorted(place.glob("*/journal.jsonl"))
                if journal.parent != folder
            ]
            with Ledger(folder / "journal.jsonl", base.protocol, others) as ledger:
                session = Session(ledger, pool, Progress(disable=True), stop_at=stop_at)
                runs.append(one_run(problem, session))
            runs[-1]["busy"] = busy(folder / "journal.jsonl", max(1, actors))
            (output / "runs.json").write_text(json.dumps(runs))
            print_tables(runs, [limit.text for limit in base.limits])
    pool.close()


def busy(journal: Path, actors: int) -> float:
    """Return the share of time that evaluators spent on the subset rung from first to last."""
    entries = read_entries(journal)
    own = [entry for entry in entries if entry.rung == "subset" and not entry.is_reused]
    if not own:
        return float("nan")
    span_s = own[-1].time - (own[0].time - own[0].seconds)
    return sum(entry.seconds for entry in own) / (actors * span_s)


def one_run(problem: Problem, session: Session) -> dict[str, Any]:
    """Return the curves of one method and seed, and the full mAP of its pick for each budget."""
    points: dict[str, Point] = {}
    explorer = Counted(problem, session, points)
    try:
        METHODS[problem.settings.method](explorer)
        reason = "nothing left to propose"
    except Stop as stop:
        reason = str(stop)
    log.info("%s: %s", problem.settings.method, reason)
    verified = finals(problem, session, list(points.values()))
    picks = [pick(verified, limit) for limit in problem.limits]
    return {
        "method": problem.settings.method,
        "seed": problem.settings.seed,
        "ended": reason,
        "curve": explorer.curve,
        "best_after": explorer.best_after,
        "picks": [accuracy(p.score) if p else None for p in picks],
        "picked": [p.candidate.to_dict() if p else None for p in picks],
    }


def input_size_alone(problem: Problem, session: Session) -> dict[str, Any]:
    """Return the best full mAP of the uncompressed model for each budget."""
    points = [
        Point("", "dense", candidate, problem.cost(candidate), result)
        for candidate in map(problem.dense, problem.sizes)
        for result in session.results([candidate], "full", "dense")
        if isinstance(result, Score)
    ]
    picks = [pick(points, limit) for limit in problem.limits]
    return {"method": "input size", "picks": [accuracy(p.score) if p else None for p in picks]}


def finals(problem: Problem, session: Session, points: Sequence[Point]) -> list[Point]:
    """Score on all images those that may be the pick for a budget, as the search does."""
    smooth_N, _ = smooth_accuracy(problem, points)
    chosen: dict[int, None] = {}
    for limit in problem.limits:
        rows = [row for row, point in enumerate(points) if limit.affordable(point.cost)]
        chosen |= dict.fromkeys(sorted(rows, key=lambda row: -smooth_N[row])[:FINALISTS])
    todo = [points[row] for row in chosen]
    results = session.results([point.candidate for point in todo], "full", "finals")
    return [
        replace(point, score=result)
        for point, result in zip(todo, results, strict=True)
        if isinstance(result, Score)
    ]


def print_tables(runs: Sequence[dict[str, Any]], budgets: Sequence[str]) -> None:
    """Print hypervolume by evaluations and mAP by budget, means over the seeds."""
    table = Table(
        "method", "spent", *map(str, MARKS), "end", "spread", "busy", *budgets,
        title="hypervolume; mAP50-95",
    )  # fmt: skip
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        cells = _progress(own) if "curve" in own[0] else [""] * (len(MARKS) + 4)
        picks = zip(*(run["picks"] for run in own), strict=True)
        table.add_row(
            method,
            *cells,
            *(f"{np.mean([x or 0.0 for x in each]):.3f}" if any(each) else "–" for each in picks),
        )
    Console(width=220).print(table)


def _progress(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return evaluations, hypervolumes, their spread and how busy evaluators were, as text."""
    spent = int(np.mean([run["curve"][-1][0] for run in runs]))
    volumes = [np.mean([at(run["curve"], mark) for run in runs]) for mark in MARKS]
    ends = [run["curve"][-1][1] for run in runs]
    return [
        str(spent),
        *(f"{x:.4f}" if mark <= spent else "" for mark, x in zip(MARKS, volumes, strict=True)),
        f"{np.mean(ends):.4f}",
        f"{(max(ends) - min(ends)) / np.mean(ends):.2%}" if len(ends) > 1 else "",
        f"{np.mean([run['busy'] for run in runs]):.1%}",
    ]


def at(curve: Sequence[tuple[int, float]], evaluations: int) -> float:
    """Return the hypervolume reached with so many evaluations."""
    return max((volume for count, volume in curve if count <= evaluations), default=0.0)


if __name__ == "__main__":
    typer.run(main)
