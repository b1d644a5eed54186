"""Sparsity patterns on YOLOv5n: `python -m benchmarks.patterns`.

Every convolution that a pattern fits has it, Detect's outputs too (of the 6x6 stem R-TOSS says
nothing). Four tables: what is stored; what accuracy is kept without fine-tuning; what Jetson TX2 is
*predicted* to gain under a runtime that executes patterns and under TensorRT, which does not; and
the published figures of R-TOSS (arXiv 2303.02191), which are those of fine-tuned networks.

The model is the classic YOLOv5n of COCO at 416 px, the images the validation images of
../shared/coco; those that weights are fitted on are its training images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from evaluators.dataset import Dataset, load_dataset
from evaluators.dense import as_input, for_inference
from evaluators.detection import detect, score_detections
from evaluators.patterns import apply_patterns
from evaluators.reconstruct import DenseOutputs, measure_outputs, reconstruct
from evaluators.refit import Inputs, measure_inputs
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
BATCH = 8
PATTERNS = ("3ep", "2ep", "2:4", "unstructured-0.3", "block-0.5", "kernel-0.5")
ENTRIES = ("3ep", "2ep")
PUBLISHED = (  # pattern, network, compression, speed-up, energy saved
    ("3ep", "YOLOv5s", "–", "2.12x", "–"),
    ("2ep", "YOLOv5s", "4.4x", "2.15x", "57.01 %"),
    ("2ep", "RetinaNet", "2.89x", "1.87x", "56.31 %"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """The model, and what is measured on it once."""

    detector: Detector
    network: Network
    validation: Dataset
    inputs: Mapping[str, Inputs]
    outputs: DenseOutputs

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

    def sparse(self, name: str, how: Literal["none", "at once", "in turn"]) -> nn.Module:
        """Return the network with a pattern, its other weights making up for it or not."""
        net = copy.deepcopy(self.detector.net)
        named = self.patterns(name)
        if how == "in turn":
            reconstruct(net, self.outputs, self.network, self.everything, {}, patterns=named)
        else:
            inputs = self.inputs if how == "at once" else {}
            apply_patterns(net, self.network, self.everything, named, inputs)
        return net

    @torch.inference_mode()
    def map50_95(self, net: nn.Module) -> float:
        """Measure the mAP of a network."""
        net = for_inference(copy.deepcopy(net))
        found: list[Tensor] = []
        for start in range(0, len(self.validation), BATCH):
            part = slice(start, min(start + BATCH, len(self.validation)))
            found += detect(net(as_input(self.validation.squares(IMGSZ, part))))
        return score_detections(found, self.validation, IMGSZ).map50_95


def load(shared: Path, images: int) -> Bench:
    """Load the model and look at the images."""
    detector = load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")
    network = analyse(detector, IMGSZ)
    validation = load_dataset(str(shared / "coco" / "coco.yaml"), "val")
    train = load_dataset(str(shared / "coco" / "coco.yaml"), "train").subset(CALIBRATION_IMAGES)
    pictures = as_input(train.squares(IMGSZ))
    return Bench(
        detector,
        network,
        validation.subset(images) if images else validation,
        measure_inputs(detector.net, network, pictures),
        measure_outputs(detector.net, network, pictures),
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


def storage_and_accuracy(bench: Bench, console: Console) -> None:
    """Print what is stored and what accuracy is kept."""
    dense = bench.map50_95(bench.detector.net)
    headers = ["pattern", "sparsity", "x smaller, FP32", "x smaller, FP16", "MB, FP16"]
    headers += ["kept: largest weights", "fitted at once", "fitted in turn", "s"]
    table = Table(
        *headers,
        title=f"classic YOLOv5n, {IMGSZ} px, {len(bench.validation)} images, dense mAP50-95 "
        f"{dense:.4f}; share of it that is kept, no fine-tuning",
    )
    for name in PATTERNS:
        kept = [bench.map50_95(bench.sparse(name, how)) / dense for how in ("none", "at once")]
        start = time.perf_counter()
        net = bench.sparse(name, "in turn")
        seconds = time.perf_counter() - start
        kept.append(bench.map50_95(net) / dense)
        weights = [net.get_submodule(layer.name).get_parameter("weight").detach() for layer in
                   bench.network.layers]  # fmt: skip
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        sizes = [stored_bytes(net, bench, name, precision) for precision in ("float32", "float16")]
        whole = [stored_bytes(net, bench, "dense", p) for p in ("float32", "float16")]
        table.add_row(
            name,
            f"{zeros / sum(weight.numel() for weight in weights):.1%}",
            *(f"{all_ / size:.2f}" for all_, size in zip(whole, sizes, strict=True)),
            f"{sizes[1] / 1e6:.2f}",
            *(f"{share:.1%}" for share in kept),
            f"{seconds:.0f}",
        )
    console.print(table)


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
    shared: Annotated[Path, typer.Option(help="the folder of real data")] = Path("../shared"),
) -> None:
    """Measure and print."""
    if not (shared / "weights").is_dir():
        typer.echo(f"The real weights and images are not here: no folder {shared}. Skipped.")
        return
    console = Console()
    bench = load(shared, images)
    predictions(bench, console)
    storage_and_accuracy(bench, console)


if __name__ == "__main__":
    typer.run(main)
