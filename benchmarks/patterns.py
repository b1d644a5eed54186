"""Sparsity patterns on YOLOv5n: `python -m benchmarks.patterns`.

Every convolution that a pattern fits has it, Detect's outputs too (of the 6x6 stem R-TOSS says
nothing). Four tables: what is stored; what accuracy is kept without fine-tuning; what Jetson TX2 is
*predicted* to gain under a runtime that executes patterns and under TensorRT, which does not; and
the published figures of R-TOSS (arXiv 2303.02191), which are those of fine-tuned networks.

The model is the classic YOLOv5n of COCO at 416 px, the images the validation images of
../shared/coco; those that weights are fitted on are its training images. Finished rows are kept in
a file (`--rows`); a row is measured again when its line is deleted.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.accuracy import as_text, retention
from benchmarks.rows import Figures, kept_row
from evaluators.dataset import Dataset, load_dataset
from evaluators.dense import as_input, for_inference
from evaluators.detection import Accuracy
from evaluators.influence import measure_outputs
from evaluators.patterns import apply_patterns
from evaluators.reconstruct import DenseOutputs, reconstruct
from evaluators.refit import Inputs, measure_inputs
from evaluators.training.validate import Validation
from hw_models.cost import Cost, CostModel
from hw_models.device import load_profile
from spaces.candidate import Candidate
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.space import SearchSpace
from spaces.sparsity.names import parse_pattern
from spaces.sparsity.packing import Precision, pack
from spaces.sparsity.sparsify import patterns_of

IMGSZ = 416
CALIBRATION_IMAGES = 64
PATTERNS = ("3ep", "2ep", "2:4", "unstructured-0.3", "block-0.5", "kernel-0.5")
ENTRIES = ("3ep", "2ep")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
Fit = Literal["none", "at once", "in turn"]
FITS: tuple[Fit, ...] = ("none", "at once", "in turn")
PUBLISHED = (  # pattern, network, compression, speed-up, energy saved
    ("3ep", "YOLOv5s", "–", "2.12x", "–"),
    ("2ep", "YOLOv5s", "4.4x", "2.15x", "57.01 %"),
    ("2ep", "RetinaNet", "2.89x", "1.87x", "56.31 %"),
)


@dataclass(eq=False)
class Bench:
    """The model, and what is measured on it once."""

    detector: Detector
    network: Network
    validation: Dataset
    pictures: Tensor

    @cached_property
    def inputs(self) -> Mapping[str, Inputs]:
        """What the dense convolutions read."""
        return measure_inputs(self.detector.net, self.network, self.pictures)

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What they write."""
        return measure_outputs(self.detector.net, self.network, self.pictures)

    @property
    def everything(self) -> NDArray[np.bool_]:
        """For each channel number that it is kept."""
        return np.ones(int(self.network.sizes.sum()) + 1, dtype=np.bool_)

    def patterns(self, name: str) -> dict[str, str]:
        """Give a pattern to every layer that it fits."""
        return {
            layer.name: name
            for layer in self.network.layers
            if layer.groups == 1 and parse_pattern(name).fits(layer.kernel)
        }

    def sparse(self, name: str, how: Fit) -> nn.Module:
        """Return the network with a pattern, its other weights making up for it or not."""
        net = copy.deepcopy(self.detector.net)
        named = self.patterns(name)
        if how == "in turn":
            reconstruct(net, self.outputs, self.network, self.everything, {}, patterns=named)
        else:
            inputs = self.inputs if how == "at once" else {}
            apply_patterns(net, self.network, self.everything, named, inputs)
        return net

    def kept(self, net: nn.Module) -> tuple[float, float]:
        """Return what share of the dense accuracy a network keeps, and its error, in %."""
        return retention(self._accuracy(net), self.dense_accuracy)

    def _accuracy(self, net: nn.Module) -> Accuracy:
        return self._scored.measure(for_inference(copy.deepcopy(net)))

    @cached_property
    def _scored(self) -> Validation:
        return Validation(self.validation, IMGSZ)

    @cached_property
    def dense_accuracy(self) -> Accuracy:
        """That of the dense network."""
        return self._accuracy(self.detector.net)


def load(shared: Path, images: int) -> Bench:
    """Load the model and look at the images."""
    detector = load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")
    network = analyse(detector, IMGSZ)
    validation = load_dataset(str(shared / "coco" / "coco.yaml"), "val")
    train = load_dataset(str(shared / "coco" / "coco.yaml"), "train").subset(CALIBRATION_IMAGES)
    return Bench(
        detector,
        network,
        validation.subset(images) if images else validation,
        as_input(train.squares(IMGSZ)),
    )


def stored_bytes(net: nn.Module, bench: Bench, name: str, precision: Precision) -> int:
    """Pack all convolutions of a network and count the bytes, biases in the same precision."""
    chosen = patterns_of(bench.detector.net, bench.network, bench.patterns(name))
    total = 0
    for layer in bench.network.layers:
        weight = net.get_submodule(layer.name).get_parameter("weight")
        total += layer.out_channels * np.dtype(precision).itemsize
        if layer.name in chosen:
            total += pack(weight, chosen[layer.name], precision).size_bytes
        else:
            total += weight.numel() * np.dtype(precision).itemsize
    return total


def price(network: Network, patterns: Mapping[str, str], target: str, imgsz: int) -> Cost:
    """Predict what a network with patterns costs on a target."""
    space = SearchSpace(network, [imgsz])
    candidate = Candidate(imgsz, patterns=tuple(patterns.items()))
    return CostModel(load_profile(target)).predict(space.workload(candidate))


def storage_and_accuracy(bench: Bench, names: Sequence[str], rows: Path, console: Console) -> None:
    """Print what is stored and what accuracy is kept."""
    images = f"{len(bench.validation)} images"
    dense = bench.dense_accuracy.map50_95
    headers = ["pattern", "sparsity", "x smaller, FP32", "x smaller, FP16", "MB, FP16"]
    headers += ["kept: largest weights", "fitted at once", "fitted in turn", "s"]
    table = Table(
        *headers,
        title=f"classic YOLOv5n, {IMGSZ} px, {images}, dense mAP50-95 {dense:.4f}; % of it "
        f"that is kept, no fine-tuning",
    )
    for name in names:
        row = kept_row(rows, f"{name} | {images}, resampled", partial(_figures, bench, name))
        table.add_row(
            name,
            f"{row['sparsity']:.1%}",
            *(f"{row[f'x {precision}']:.2f}" for precision in PRECISIONS),
            f"{row['bytes float16'] / 1e6:.2f}",
            *(as_text(row[how]) for how in FITS),
            f"{row['seconds']:.0f}",
        )
    console.print(table)


def _figures(bench: Bench, name: str) -> Figures:
    figures: Figures = {how: bench.kept(bench.sparse(name, how)) for how in FITS[:2]}
    start = time.perf_counter()
    net = bench.sparse(name, "in turn")
    figures["seconds"] = time.perf_counter() - start
    figures["in turn"] = bench.kept(net)
    weights = [
        net.get_submodule(layer.name).get_parameter("weight").detach()
        for layer in bench.network.layers
    ]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    figures["sparsity"] = zeros / sum(weight.numel() for weight in weights)
    for precision in PRECISIONS:
        size = stored_bytes(net, bench, name, precision)
        figures[f"bytes {precision}"] = size
        figures[f"x {precision}"] = stored_bytes(net, bench, "dense", precision) / size
    return figures


def predictions(bench: Bench, console: Console) -> None:
    """Print what Jetson TX2 is predicted to gain."""
    table = Table(
        "network", "pattern", "runtime", "ms", "speed-up", "mJ", "energy saved",
        title="Jetson TX2, FP16, predicted; with patterns the published gains of whole networks are"
        " taken for each layer",
    )  # fmt: skip
    small = analyse(load_detector("yolov5s.yaml"), 640)
    for title, network, imgsz in (
        (f"YOLOv5n, {IMGSZ} px", bench.network, IMGSZ),
        ("YOLOv5su, 640 px", small, 640),
    ):
        for target, runtime in (("jetson-tx2-pattern", "patterns"), ("jetson-tx2", "TensorRT")):
            dense = price(network, {}, target, imgsz)
            for name in ("dense", *ENTRIES):
                fitting = {
                    layer.name: name
                    for layer in network.layers
                    if parse_pattern(name).fits(layer.kernel) and layer.groups == 1
                }
                cost = price(network, fitting, target, imgsz)
                table.add_row(
                    title, name, runtime,
                    f"{cost.latency_ms:.1f}", f"{dense.latency_ms / cost.latency_ms:.2f}x",
                    f"{cost.energy_mj:.0f}", f"{1 - cost.energy_mj / dense.energy_mj:.0%}",
                )  # fmt: skip
    console.print(table)
    published = Table(
        "pattern", "network", "compression", "speed-up on TX2", "energy saved",
        title="published: R-TOSS, arXiv 2303.02191, fine-tuned",
    )  # fmt: skip
    for row in PUBLISHED:
        published.add_row(*row)
    console.print(published)


def main(
    images: Annotated[int, typer.Option(help="validation images; 0: all")] = 0,
    names: Annotated[str, typer.Option(help="patterns")] = ",".join(PATTERNS),
    shared: Annotated[Path, typer.Option(help="the folder of real data")] = Path("../shared"),
    rows: Annotated[Path, typer.Option(help="where finished rows are kept")] = Path(
        "runs/benchmarks/patterns.jsonl"
    ),
) -> None:
    """Measure and print."""
    if not (shared / "weights").is_dir():
        typer.echo(f"The real weights and images are not here: no folder {shared}. Skipped.")
        return
    console = Console()
    bench = load(shared, images)
    predictions(bench, console)
    storage_and_accuracy(bench, names.split(","), rows, console)


if __name__ == "__main__":
    typer.run(main)
