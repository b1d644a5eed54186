"""How well cheap numbers stand for mAP: `python -m benchmarks.proxies`.

Random candidates of each kind (bits, channels, patterns, all mixed, the same with the input size),
with what the search knows of them (the proxies, and mAP on the subset's images, quickly restored)
beside what counts (mAP on all images, reconstructed as a delivered model is). Printed are
Spearman's correlations with the share of the dense mAP that is lost; last that of the search's
monotone combination, fitted on half of the candidates of all kinds and tested on the other half.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import spearmanr

from evaluators.score import Score
from search.actors import InProcessPool
from search.explorer import Explorer, Floats, Genomes, OutOfTime, Session
from search.ledger import Ledger
from search.problem import accuracy, prepare
from search.proxies import Combination, proxies_of, rank_correlations
from search.run import read_settings
from search.seeding import sparse_random
from search.sensitivity import sweep


def main(
    count: Annotated[int, typer.Option(help="candidates of each kind")] = 60,
    images: Annotated[int, typer.Option(help="validation images of the mAP; 0: all")] = 0,
    weights: str = "demo",
    data: str = "demo",
    imgsz: str = "320,256",
    target: str = "jetson-xavier-nx",
    pattern: Annotated[str, typer.Option(help="patterns, or none")] = "2ep,3ep",
    additive: Annotated[bool, typer.Option(help="the additive loss, too: a whole sweep")] = True,
    minutes: Annotated[float, typer.Option(help="evaluate no longer, and print")] = float("inf"),
    output: Annotated[Path, typer.Option(help="where the journal lies")] = Path("runs/proxies"),
) -> None:
    """Score random candidates and print the table; run again, it goes on where it stopped."""
    stop_at = time.monotonic() + 60 * minutes
    settings = read_settings(
        {
            "weights": weights,
            "data": data,
            "imgsz": tuple(map(int, imgsz.split(","))),
            "target": target,
            "latency": ("99%",),
            "bits": (4, 5, 6, 8, 16),
            "act_bits": (8, 16),
            "pattern": tuple(pattern.split(",")),
            "actors": 0,
        }
    )
    problem = prepare(settings)
    validation = problem.validation.subset(images or len(problem.validation))
    pool = InProcessPool(partial(cast("Any", problem.build), validation=validation))
    output.mkdir(parents=True, exist_ok=True)
    with Ledger(output / "journal.jsonl", f"{problem.protocol}-{images}") as ledger:
        session = Session(ledger, pool, Progress(disable=True), stop_at=stop_at)
        explorer = Explorer(problem, session, {})
        losses = sweep(explorer) if additive else None
        kinds, proxies, kept_N = scored(explorer, losses, count)
    print_table(kinds, proxies, kept_N)


def scored(
    explorer: Explorer, losses: list[Floats] | None, count: int
) -> tuple[list[str], dict[str, Floats], Floats]:
    """Return kind, proxies and share of the dense mAP (at the same size) of random candidates."""
    problem, session = explorer.problem, explorer.session
    dense = [problem.dense(size) for size in problem.sizes]
    subset_map, full_map = (
        [accuracy(cast("Score", score)) for score in session.results(dense, rung, "dense")]
        for rung in ("subset", "full")
    )
    rows = list[tuple[str, Genomes, Score, Score]]()
    with suppress(OutOfTime):
        for kind, genome in candidates(explorer, count):
            todo = [problem.space.decode(genome)]
            (quick,) = session.results(todo, "subset", "random candidates")
            (result,) = session.results(todo, "full", "random candidates")
            if isinstance(quick, Score) and isinstance(result, Score):
                rows.append((kind, genome, quick, result))
    proxies = proxies_of([quick for _, _, quick, _ in rows])
    if losses is not None:
        proxies["additive"] = np.array(
            [sum(x[i] for x, i in zip(losses, genome, strict=True)) for _, genome, _, _ in rows]
        )
    sizes = [problem.sizes.index(problem.space.decode(genome).imgsz) for _, genome, _, _ in rows]
    quick_N = np.array(
        [accuracy(row[2]) / subset_map[x] for row, x in zip(rows, sizes, strict=True)]
    )
    kept = [accuracy(row[3]) / full_map[x] for row, x in zip(rows, sizes, strict=True)]
    proxies["subset mAP"] = 1.0 - quick_N
    return [kind for kind, _, _, _ in rows], proxies, np.array(kept)


def candidates(explorer: Explorer, count: int) -> Iterator[tuple[str, Genomes]]:
    """Yield (kind, genome) by turns: of one family of variables each, and of all.

    The last kind varies the input size, too, where there are several.
    """
    random = np.random.default_rng(0)
    kinds = {name: explorer.family(name) for name in ("bits", "keep", "pattern")}
    kinds["mixed"] = explorer.family(*kinds)
    if len(explorer.dense_NV) > 1:
        kinds["size, mixed"] = kinds["mixed"]
    drawn = {
        kind: sparse_random(count, explorer.upper_V[columns], random)
        for kind, columns in kinds.items()
        if columns
    }
    for row in range(count):
        for kind, levels_NV in drawn.items():
            size = random.integers(len(explorer.dense_NV)) if kind.startswith("size") else 0
            genome = explorer.dense_NV[size].copy()
            genome[kinds[kind]] = levels_NV[row]
            yield kind, genome


def print_table(kinds: list[str], proxies: dict[str, Floats], kept_N: Floats) -> None:
    """Print Spearman's correlations by kind; the combination's on the half it was not fitted on."""
    fitted = np.array([kinds[:row].count(kind) % 2 == 0 for row, kind in enumerate(kinds)])
    combination = Combination({k: v[fitted] for k, v in proxies.items()}, kept_N[fitted])
    predicted_N = combination.predict(proxies)
    table = Table("kind", "n", "mAP kept", *proxies, "together (unseen half)")
    groups = {kind: np.array([k == kind for k in kinds]) for kind in dict.fromkeys(kinds)}
    groups["all"] = np.ones(len(kinds), dtype=bool)
    groups["all keeping > 50 %"] = kept_N > 0.5
    for name, rows in groups.items():
        found = rank_correlations({k: v[rows] for k, v in proxies.items()}, kept_N[rows])
        unseen = rows & ~fitted
        together = float(spearmanr(predicted_N[unseen], kept_N[unseen])[0])
        span = f"{kept_N[rows].min():.0%} to {kept_N[rows].max():.0%}"
        cells = [f"{value:.3f}" for value in (*found.values(), together)]
        table.add_row(name, str(int(rows.sum())), span, *cells)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in combination.weights.items())
    Console(width=160).print(table, f"weights: {weights}; spread {combination.spread:.3f}")


if __name__ == "__main__":
    typer.run(main)
