"""Does a run survive anything? `python -m benchmarks.kills`.

For each seed, a search of the embedded demo with two Ray actors runs undisturbed. Then the same
search is started again, its driver killed with SIGKILL as soon as its journal has a random number
of lines, and resumed, ten times. After every kill the journal must go on from what it was, byte for
byte but for a torn last line; in the end no result may be there twice and none of the asked for may
be missing. Which candidates are tried after the first generations depends on the order in which
results come in, so the fronts are compared by the hypervolume that they cover.

What is done in FOLDER is not repeated: a benchmark that was stopped goes on.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from search.front import hypervolume

ROOT = Path(__file__).resolve().parents[1]
METHOD = "nsga2"


@dataclass(frozen=True, slots=True)
class Survived:
    """What came of one seed.

    Attributes:
        seed: Of the search.
        kills: After how many lines of the journal the driver was killed.
        twice: Results recorded more than once.
        lost: Lines of the journal that a kill or a resume took away or changed.
        missing: Candidates that should have been scored, and were not.
        undisturbed: Hypervolume of the run that was let alone.
        killed: Hypervolume of the one that was not.
    """

    seed: int
    kills: tuple[int, ...]
    twice: int
    lost: int
    missing: int
    undisturbed: float
    killed: float


def start(*options: object) -> psutil.Popen:
    """Start a search; its words go nowhere, its run folder has a log."""
    command = [sys.executable, str(ROOT / "search.py"), *map(str, options)]
    return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines_of(run: Path) -> list[bytes]:
    """Return the whole lines of a journal."""
    journal = run / "journal.jsonl"
    return journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []


def finish(*options: object) -> None:
    """Run a search to its end."""
    process = start(*options)
    if (code := process.wait()) != 0:
        raise SystemExit(f"a search ended with {code}: search.py {' '.join(map(str, options))}")


def kill_at(count: int, run: Path, *options: object) -> None:
    """Start a search, and kill its driver when its journal has so many lines, if it gets there."""
    process = start(*options)
    while process.poll() is None and len(lines_of(run)) < count:
        time.sleep(0.02)
    if (code := process.poll()) is not None:
        if code != 0:
            raise SystemExit(f"the search ended with {code} before its line {count}")
        return
    below = process.children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    for left in alive:  # Ray's processes end with their driver; what does not would go on for ever
        print(f"left over: {left}", flush=True)
        left.kill()


def disturb(run: Path, moments: list[int], fresh: list[object], last: list[object]) -> int:
    """Kill and resume at all moments, then finish; return how many lines were lost on the way."""
    done = run / "kills.json"
    so_far: list[int] = json.loads(done.read_text()) if done.exists() else []
    lost = 0
    for count in moments[len(so_far) :]:
        before = lines_of(run)
        options = [*last, "--resume", run] if before else fresh
        kill_at(max(count, len(before) + 1), run, *options)
        lost += sum(a != b for a, b in zip(before, lines_of(run), strict=False))
        lost += max(0, len(before) - len(lines_of(run)))
        so_far.append(len(lines_of(run)))
        done.write_text(json.dumps(so_far))
        print(f"  killed at line {so_far[-1]}", flush=True)
    before = lines_of(run)
    if not (run / "report.html").exists():
        finish(*last, "--resume", run)
    return lost + sum(a != b for a, b in zip(before, lines_of(run), strict=False))


def covered(run: Path) -> float:
    """Return the hypervolume of a run's front, of the box up to the dense model and no accuracy."""
    with (run / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    dense = next(row for row in rows if row["id"] == "dense")
    F_NM = [[1 - float(row["map50_95"]), float(row["latency_ms"])] for row in rows if row != dense]
    return hypervolume(np.array(F_NM), np.array([1.0, float(dense["latency_ms"])]))


def one_seed(folder: Path, seed: int, evals: int, kills: int) -> Survived:
    """Run the search of one seed twice: let alone, and killed."""
    common: list[object] = [
        "--latency", "80%", "--imgsz", 160, "--target", "jetson-xavier-nx", "--method", METHOD,
        "--evals", evals, "--seed", seed, "--project", folder,
    ]  # fmt: skip
    last: list[object] = ["--actors", 2]
    calm, wild = folder / f"calm-{seed}", folder / f"wild-{seed}"
    if not (calm / "report.html").exists():
        finish(*common, *last, "--name", calm.name, "--exist-ok")
    total = len(lines_of(calm))
    # The other run may need fewer lines: not up to the last one.
    lines = np.arange(2, max(kills + 2, total * 9 // 10))
    chosen = np.random.default_rng(seed).choice(lines, kills, replace=False)
    lost = disturb(wild, sorted(map(int, chosen)), [*common, *last, "--name", wild.name], last)
    records = [json.loads(line) for line in lines_of(wild)[1:]]
    keys = Counter((record["digest"], record["rung"]) for record in records)
    scored = sum(rung == "subset" for _, rung in keys)
    return Survived(
        seed,
        tuple(json.loads((wild / "kills.json").read_text())),
        twice=sum(count - 1 for count in keys.values()),
        lost=lost,
        missing=evals - scored,
        undisturbed=covered(calm),
        killed=covered(wild),
    )


def main(
    folder: Path,
    seeds: int = 3,
    kills: Annotated[int, typer.Option(help="of each seed's run")] = 10,
    evals: Annotated[int, typer.Option(help="of each search, some generations")] = 120,
) -> None:
    """Kill searches and print what came of them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Table("seed", "killed after lines", "twice", "lost", "missing", "undisturbed", "killed",
                  "difference")  # fmt: skip
    runs = []
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        runs.append(one_seed(folder.resolve(), seed, evals, kills))
        run = runs[-1]
        table.add_row(
            f"{seed}", ", ".join(map(str, run.kills)), f"{run.twice}", f"{run.lost}",
            f"{run.missing}", f"{run.undisturbed:.4f}", f"{run.killed:.4f}",
            f"{run.killed / run.undisturbed - 1:+.2%}",
        )  # fmt: skip
    calm = float(np.mean([run.undisturbed for run in runs]))
    wild = float(np.mean([run.killed for run in runs]))
    Console(width=130).print(table, f"means: {calm:.4f}, {wild:.4f}: {wild / calm - 1:+.2%}")


if __name__ == "__main__":
    typer.run(main)
