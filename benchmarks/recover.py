"""What recovery by training gives: python -m benchmarks.recover FOLDER [--shared ../shared].

Blood cells (BCCD) at 320 px: the dense reference, the pick of a search at 60 % of its FP16 latency
on a Jetson TX2, and that pick after the same number of epochs of (1) `paretrim recover` with its
default, distillation from the dense model, (2) the same without distillation, (3) training from
scratch; and (4) `paretrim recover` of the pick of uniform ratios. Searches and trainings lie in
FOLDER: what was stopped goes on, what is done is not repeated. mAP is that of the validation
images, by which the pick was chosen; no epoch is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "1")

import torch
from rich.console import Console
from rich.table import Table

from evaluators.dataset import load_dataset
from evaluators.training.fresh import fresh
from evaluators.training.trainer import Plan, Training
from evaluators.training.validate import Validation
from search.finished import Finished, read_finished
from search.front import Point
from search.problem import accuracy
from search.recover.command import recover
from search.recover.trials import default_rate
from search.recover.wish import Wish
from search.run import new_search
from search.run_folder import RunFolder

BUDGET = "60%"
GOAL = 0.97  # of dense mAP50-95
REPORT_EVERY = 5  # epochs
QUIET = Console(quiet=True)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    Attributes:
        name: What it is called.
        method: Of the search.
        command: Whether `paretrim recover` trains it; else it is trained here, undistilled.
        from_scratch: Whether it starts from fresh weights.
    """

    name: str
    method: str
    command: bool = True
    from_scratch: bool = False


VARIANTS = (
    Variant("paretrim recover", "paretrim"),
    Variant("without distillation", "paretrim", command=False),
    Variant("from scratch", "paretrim", command=False, from_scratch=True),
    Variant("paretrim recover, uniform ratios", "uniform"),
)


def searched(folder: Path, shared: Path, method: str) -> Path:
    """Search once; return the run's folder."""
    run = RunFolder(folder / f"search-{method}")
    if not run.picks.exists():
        options = {
            "weights": str(shared / "weights" / "bccd_yolov5nu_320.pt"),
            "data": str(shared / "bccd" / "bccd.yaml"),
            "imgsz": (320,),
            "latency": (BUDGET,),
            "bits": (0,),
            "method": method,
            "evals": 160 if method == "paretrim" else 40,
            "actors": 0,
        }
        new_search(options, folder, run.path.name, exist_ok=True, console=QUIET)
    return run.path


def result_of(finished: Finished, pick: Point, after: tuple[float, float]) -> dict[str, Any]:
    """Return one row's figures."""
    dense = finished.searched.dense[0]
    return {
        "id": pick.id,
        "share": pick.cost.latency_ms / dense.cost.latency_ms,
        "before": accuracy(pick.score),
        "after": after,
        "dense": (accuracy(dense.score), dense.score.map50),
    }


def by_command(folder: Path, shared: Path, variant: Variant, epochs: int) -> dict[str, Any]:
    """Recover the pick as a user would, with one trial."""
    run = searched(folder, shared, variant.method)
    finished = read_finished(run)
    (pick,) = finished.choose([])
    if not any(point.id == f"{pick.id}r" for point in finished.recovered):
        recover(run, Wish((pick.id,), trials=1, epochs=epochs), QUIET)
        finished = read_finished(run)
    (recovered,) = finished.choose([f"{pick.id}r"])
    return result_of(finished, pick, (accuracy(recovered.score), recovered.score.map50 or 0.0))


def trained_here(folder: Path, shared: Path, variant: Variant, epochs: int) -> dict[str, Any]:
    """Train the pick without a teacher, or read what became of it."""
    name = f"{variant.name}-{epochs}".replace(" ", "-")
    done = folder / f"{name}.json"
    if done.exists():
        return json.loads(done.read_text())
    finished = read_finished(searched(folder, shared, variant.method))
    problem, (pick,) = finished.problem, finished.choose([])
    student = problem.build().build(pick.candidate)
    start = fresh(student, seed=0) if variant.from_scratch else student
    data = load_dataset(problem.settings.data, "train")
    plan = Plan(epochs, distillation=0.0)
    if not variant.from_scratch:  # at the rate of the default trial: distillation alone differs
        rate = default_rate(pick, finished.searched.dense[0])
        plan = replace(plan, learning_rate=rate)
    training = Training(start, problem.detector, data, plan)
    checkpoint = folder / f"{name}.ckpt"
    if checkpoint.exists():
        training.load(checkpoint)
    validation = Validation(problem.validation, student.imgsz)
    while training.epoch < epochs:
        report = training.run_epoch()
        training.save(checkpoint)
        line = f"{name}: epoch {report.epoch}, loss {report.loss:.3f}, {report.seconds:.0f} s"
        if report.epoch % REPORT_EVERY == 0:
            line += f", mAP50-95 {validation.measure(training.averaged).map50_95:.4f}"
        print(line, flush=True)
    after = validation.measure(training.result().simulated().net)
    result = result_of(finished, pick, (after.map50_95, after.map50))
    done.write_text(json.dumps(result))
    return result


def main() -> None:
    """Read the command line, train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where runs and checkpoints are kept")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", type=int, nargs="*", help="these variants alone (0 to 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"BCCD val at 320 px, {options.epochs} epochs, latency on jetson-tx2 FP16")
    for header in ("variant", "latency of dense", "mAP50-95 before", "after", "mAP50", "of dense"):
        table.add_column(header, justify="left" if header == "variant" else "right")
    for number in range(len(VARIANTS)) if options.only is None else options.only:
        variant = VARIANTS[number]
        train = by_command if variant.command else trained_here
        row = train(options.folder, options.shared, variant, options.epochs)
        table.add_row(
            variant.name,
            f"{row['share']:.0%}",
            "" if variant.from_scratch else f"{row['before']:.4f}",
            f"{row['after'][0]:.4f}",
            f"{row['after'][1]:.4f}",
            f"{row['after'][0] / row['dense'][0]:.1%}",
        )
    table.add_row("dense", "100%", "", f"{row['dense'][0]:.4f}", f"{row['dense'][1]:.4f}", "100.0%")
    Console(width=120, highlight=False).print(table)
    print(f"Goal: {GOAL:.0%} of dense with the first variant.")


if __name__ == "__main__":
    main()
