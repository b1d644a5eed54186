"""What recovery by training gives: python -m benchmarks.recover FOLDER [--shared ../shared].

Blood cells (BCCD) at 320 px: the dense reference, the pick of a search at 60 % of its FP16 latency
on a Jetson TX2, and that pick after the same number of epochs of (1) fine-tuning with distillation
from the dense model, (2) fine-tuning alone, (3) training from scratch; and (4) the pick of uniform
ratios with (1). Every training is checkpointed after each epoch in FOLDER: what was stopped goes
on, what is done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
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
from search.problem import Problem, prepare
from search.run import new_search
from search.run_folder import RunFolder
from spaces.candidate import Candidate
from spaces.model import Detector

BUDGET = "60%"
GOAL = 0.97  # of dense mAP50-95
REPORT_EVERY = 5  # epochs


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table."""

    name: str
    method: str  # of the search
    distillation: float
    from_scratch: bool = False


VARIANTS = (
    Variant("fine-tuned, distilled", "paretrim", 1.0),
    Variant("fine-tuned", "paretrim", 0.0),
    Variant("from scratch", "paretrim", 0.0, from_scratch=True),
    Variant("uniform ratios, distilled", "uniform", 1.0),
)


def picked(folder: Path, shared: Path, method: str) -> tuple[Problem, dict[str, Any], Detector]:
    """Search once; return the problem, the pick's record and the pick before any training."""
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
        new_search(options, folder, run.path.name, exist_ok=True, console=Console(quiet=True))
    problem = prepare(run.read_settings())
    pick = json.loads(run.picks.read_text())[0]
    recipe = json.loads((run.model(pick["id"]) / "recipe.json").read_text())
    candidate = Candidate.from_dict(recipe["candidate"])
    return problem, pick, problem.build().build(candidate)


def trained(
    folder: Path, shared: Path, variant: Variant, epochs: int, learning_rate: float
) -> dict[str, Any]:
    """Train a variant, or read what became of it."""
    name = f"{variant.name}-{epochs}-{learning_rate:g}".replace(" ", "-").replace(",", "")
    done = folder / f"{name}.json"
    if done.exists():
        return json.loads(done.read_text())
    problem, pick, student = picked(folder, shared, variant.method)
    start = fresh(student, seed=0) if variant.from_scratch else student
    plan = Plan(epochs, learning_rate, variant.distillation)
    data = load_dataset(problem.settings.data, "train")
    training = Training(start, problem.detector, data, plan)
    checkpoint = folder / f"{name}.ckpt"
    if checkpoint.exists():
        training.load(checkpoint)
    validation = Validation(problem.validation, student.imgsz)
    while training.epoch < epochs:
        report = training.run_epoch()
        training.save(checkpoint)
        if report.epoch % REPORT_EVERY == 0:
            now = validation.measure(training.averaged)
            print(
                f"{name}: epoch {report.epoch}, loss {report.loss:.3f}, mAP50-95"
                f" {now.map50_95:.4f}, {report.seconds:.0f} s",
                flush=True,
            )
    before = validation.measure(student.net)
    after = validation.measure(training.result().simulated().net)
    dense = validation.measure(problem.detector.net)
    result = {
        "id": pick["id"],
        "share": pick["latency_ms"] / problem.cost(problem.dense()).latency_ms,
        "before": [before.map50_95, before.map50],
        "after": [after.map50_95, after.map50],
        "dense": [dense.map50_95, dense.map50],
    }
    done.write_text(json.dumps(result))
    return result


def main() -> None:
    """Read the command line, train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where runs and checkpoints are kept")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--only", type=int, help="train this variant alone (0 to 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"BCCD val at 320 px, {options.epochs} epochs, latency on jetson-tx2 FP16")
    for header in ("variant", "latency of dense", "mAP50-95 before", "after", "mAP50", "of dense"):
        table.add_column(header, justify="left" if header == "variant" else "right")
    variants = VARIANTS if options.only is None else VARIANTS[options.only : options.only + 1]
    for variant in variants:
        row = trained(
            options.folder, options.shared, variant, options.epochs, options.learning_rate
        )
        kept = row["after"][0] / row["dense"][0]
        table.add_row(
            variant.name,
            f"{row['share']:.0%}",
            "" if variant.from_scratch else f"{row['before'][0]:.4f}",
            f"{row['after'][0]:.4f}",
            f"{row['after'][1]:.4f}",
            f"{kept:.1%}",
        )
    table.add_row("dense", "100%", "", f"{row['dense'][0]:.4f}", f"{row['dense'][1]:.4f}", "100.0%")
    Console(width=120, highlight=False).print(table)
    print(f"Goal: {GOAL:.0%} of dense with the first variant.")


if __name__ == "__main__":
    main()
