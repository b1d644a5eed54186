"""How fast each method gets how far: `python -m benchmarks.search`.

Every method searches the same problem with the same evaluation code, seed by seed; all share one
journal, so that what two of them ask for is evaluated once. An evaluation is one look at one
candidate, whether on the proxy or the subset rung: the sensitivity sweep counts. Printed are the
hypervolume (loss of the subset's mAP against latency) after some numbers of evaluations, and for
each budget the mAP on all validation images of the method's pick.

The complete run of the acceptance (3 seeds, 3,000 evaluations, two devices) takes days on two
cores; the defaults take an hour or so.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluators.score import Failed, Score
from search.actors import InProcessPool, Pool
from search.explorer import Explorer, Floats, Genomes, Session, Stop
from search.front import Point, pick
from search.ledger import Ledger
from search.methods import METHODS
from search.problem import Problem, accuracy, prepare
from search.run import read_settings
from search.study import verify

BUDGETS = "50%,60%,70%,80%,90%"


class Counted(Explorer):
    """An explorer that notes the hypervolume after each evaluation, probes included."""

    def __init__(self, problem: Problem, session: Session, points: dict[str, Point]) -> None:
        super().__init__(problem, session, points)
        self.probes = 0
        self.curve: list[tuple[int, float]] = []

    def probe(self, genomes_NV: Genomes, title: str) -> list[Score | Failed]:
        """Count probes as evaluations."""
        self.probes += len(genomes_NV)
        return super().probe(genomes_NV, title)

    def score(self, genomes_NV: Genomes, method: str) -> Floats:
        """Note how far the front has come."""
        try:
            return super().score(genomes_NV, method)
        finally:
            self.curve.append((self.probes + len(self.scored), self.hypervolume()))


def main(
    methods: str = "paretrim,nsga2,random,milp,dp,spdy,eagleeye,netadapt,hawq,halp,uniform",
    seeds: int = 1,
    evals: int = 400,
    weights: str = "demo",
    data: str = "demo",
    imgsz: str = "320,256",
    target: str = "jetson-xavier-nx",
    latency: str = BUDGETS,
    images: Annotated[int, typer.Option(help="validation images; 0: all")] = 0,
    output: Annotated[Path, typer.Option(help="journal and curves")] = Path("runs/bench-search"),
) -> None:
    """Run every method for every seed and print how far each got."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {
        "weights": weights,
        "data": data,
        "imgsz": tuple(map(int, imgsz.split(","))),
        "target": target,
        "latency": tuple(latency.split(",")),
        "evals": evals,
        "actors": 0,
    }
    output.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    picks: dict[str, list[list[float]]] = {}
    base = prepare(read_settings(given))
    build = partial(
        cast("Any", base.build), validation=base.validation.subset(images or len(base.validation))
    )
    pool = InProcessPool(build)
    with Ledger(output / "journal.jsonl", base.protocol + f"-{images}") as ledger:
        for method in methods.split(","):
            for seed in range(seeds):
                settings = read_settings({**given, "method": method, "seed": seed})
                problem = replace(base, settings=settings)
                curve, picked = one_run(problem, ledger, pool)
                curves.setdefault(method, []).append(curve)
                picks.setdefault(method, []).append(picked)
                (output / "curves.json").write_text(json.dumps({"hv": curves, "picks": picks}))
                print_tables(curves, picks, [limit.text for limit in problem.limits])


def one_run(
    problem: Problem, ledger: Ledger, pool: Pool
) -> tuple[list[tuple[int, float]], list[float]]:
    """Return hypervolume by evaluations, and the full mAP of the pick for each budget."""
    points: dict[str, Point] = {}
    session = Session(ledger, pool, Progress(disable=True))
    explorer = Counted(problem, session, points)
    with suppress(Stop):
        METHODS[problem.settings.method](explorer)
    verified = verify(problem, session, list(points.values()))
    chosen = [pick(verified, limit) for limit in problem.limits]
    return explorer.curve, [accuracy(p.score) if p else float("nan") for p in chosen]


def print_tables(
    curves: dict[str, list[list[tuple[int, float]]]],
    picks: dict[str, list[list[float]]],
    budgets: list[str],
) -> None:
    """Print hypervolume by evaluations and mAP by budget, means over the seeds."""
    marks = (50, 100, 200, 300, 400, 600, 1000, 2000, 3000)
    last = max(run[-1][0] for runs in curves.values() for run in runs if run)
    shown = [*(mark for mark in marks if mark < last), last]
    table = Table("method", *(f"{mark}" for mark in shown), *budgets, title="hypervolume; mAP50-95")
    for method, runs in curves.items():
        volumes = [np.mean([at(run, mark) for run in runs]) for mark in shown]
        found = np.mean(picks[method], axis=0)
        table.add_row(method, *(f"{x:.4f}" for x in volumes), *(f"{x:.3f}" for x in found))
    Console(width=200).print(table)


def at(curve: list[tuple[int, float]], evaluations: int) -> float:
    """Return the hypervolume reached with so many evaluations."""
    return max((volume for count, volume in curve if count <= evaluations), default=0.0)


if __name__ == "__main__":
    typer.run(main)
