"""Few bits with and without training: python -m benchmarks.quantised_training FOLDER.

The demo detector with all convolutions (the first and the last, too) at 4-bit weights and 4-bit
activations: rounded after training, rounded and reconstructed as the search does it (least-squares
refit, GPTQ, on unlabelled images), and after short trainings with LSQ, NIPQ and DRGS from several
seeds. NIPQ chooses widths of 2 to 8 bits whose means are 4 at most. Results are kept in FOLDER;
what is done is not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from evaluators.demo import demo_dataset, demo_detector
from evaluators.dense import as_input
from evaluators.evaluator import Evaluator
from evaluators.training.drgs import Drgs
from evaluators.training.lsq import Lsq
from evaluators.training.method import Bits, Method
from evaluators.training.nipq import Nipq
from evaluators.training.trainer import Plan, Training
from evaluators.training.validate import Validation
from spaces.candidate import Candidate
from spaces.groups import analyse
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.grid import ActivationScales
from spaces.quantization.sharing import shared_inputs
from spaces.quantization.simulate import quantize
from spaces.saliency import rank

BITS = 4
CALIBRATION_IMAGES = 32
RECONSTRUCTION_IMAGES = 64  # as a search takes
METHODS: dict[str, Callable[[Bits, ActivationScales], Method]] = {
    "lsq": Lsq,
    "nipq": Nipq,
    "drgs": Drgs,
}


class Setting:
    """The demo at one input size: model, images, bits and scales."""

    def __init__(self, imgsz: int, images: int) -> None:
        self.detector = replace(demo_detector(), imgsz=imgsz)
        self.training = demo_dataset("train", images)
        self.validation = Validation(demo_dataset("val", 128), imgsz)
        names = [name for name in shared_inputs(self.detector.net) if ".dfl." not in name]
        self.bits: Bits = dict.fromkeys(names, (BITS, BITS))
        squares = self.training.subset(CALIBRATION_IMAGES).squares(imgsz)
        self.scales = calibrate_activations(self.detector, as_input(squares))

    def rounded(self) -> float:
        """Return mAP50-95 after rounding alone."""
        net = copy.deepcopy(self.detector.net)
        quantize(net, self.bits, self.scales)
        return self.validation.measure(net).map50_95

    def reconstructed(self) -> float:
        """Return mAP50-95 of what post-training methods make of it."""
        network = analyse(self.detector, self.detector.imgsz)
        calibration = self.training.subset(RECONSTRUCTION_IMAGES)
        evaluator = Evaluator(
            self.detector, network, rank(self.detector, network), calibration, self.training
        )
        bits = tuple((name, *pair) for name, pair in self.bits.items())
        net = evaluator.build(Candidate(self.detector.imgsz, bits=bits)).net
        return self.validation.measure(net).map50_95

    def trained(self, method: str, plan: Plan, checkpoint: Path) -> dict[str, Any]:
        """Return mAP50-95 and bits after training."""
        methods = [METHODS[method](self.bits, self.scales)]
        training = Training(self.detector, self.detector, self.training, plan, methods)
        if checkpoint.exists():
            training.load(checkpoint)
        while training.epoch < plan.epochs:
            report = training.run_epoch()
            training.save(checkpoint)
            print(f"{checkpoint.stem}: epoch {report.epoch}, loss {report.loss:.3f}", flush=True)
        trained = training.result()
        weights = Counter(width for width, _ in trained.grids.bits.values())
        return {
            "map50_95": self.validation.measure(trained.simulated().net).map50_95,
            "weight_bits": dict(sorted(weights.items())),
            "act_bits": dict(sorted(Counter(w for _, w in trained.grids.bits.values()).items())),
        }


def main() -> None:
    """Read the command line, train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.imgsz, options.images)
    results: dict[str, list[float]] = {method: [] for method in options.methods}
    for seed in range(options.seeds):
        for method in options.methods:
            name = f"{method}-{options.imgsz}-{options.images}x{options.epochs}-{seed}"
            done = options.folder / f"{name}.json"
            if not done.exists():
                plan = Plan(options.epochs, seed=seed)
                result = setting.trained(method, plan, options.folder / f"{name}.ckpt")
                done.write_text(json.dumps(result))
                print(name, result, flush=True)
            results[method].append(json.loads(done.read_text())["map50_95"])
    table = Table(title=f"demo at {options.imgsz} px, W{BITS}A{BITS} everywhere, mAP50-95 of 128")
    for header in ("method", "mean", "seeds"):
        table.add_column(header)
    dense = setting.validation.measure(setting.detector.net).map50_95
    table.add_row("dense, 32 bits", f"{dense:.3f}", "")
    table.add_row("rounded after training", f"{setting.rounded():.3f}", "")
    best = setting.reconstructed()
    table.add_row("reconstructed after training", f"{best:.3f}", "")
    for method, values in results.items():
        seeds = " ".join(f"{value:.3f}" for value in values)
        table.add_row(f"trained, {method}", f"{np.mean(values):.3f}", seeds)
        table.add_row("  margin over reconstruction", f"{np.mean(values) - best:+.3f}", "")
    Console(width=100, highlight=False).print(table)


if __name__ == "__main__":
    main()
