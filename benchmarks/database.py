"""What the layer database takes and saves: `python -m benchmarks.database`.

The classic YOLOv5n of COCO at 416 px, 64 unlabelled calibration images of ../shared/coco, one
thread. The statistics of the dense layers are measured and stored in an empty folder, and read
again as the next actor of the node would. Then every version of a layer is made from them, one at a
time in an otherwise dense network: each group of channels at up to 8 levels (restored by the
refit), each convolution at 8, 6, 5, 4 and 3 bits (rounded, norms matched). At last candidates that
mix all of it are built, as a search does.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from evaluators.database import Database
from evaluators.dataset import load_dataset
from evaluators.dense import DenseAtSize, as_input
from evaluators.evaluator import PROXY_IMAGES, SUBSET_IMAGES, Evaluator
from spaces.candidate import Candidate
from spaces.groups import Network, analyse
from spaces.model import load_detector
from spaces.saliency import rank
from spaces.space import keep_levels

IMGSZ = 416
IMAGES = 64
WIDTHS = (8, 6, 5, 4, 3)
MIXED = 20  # candidates
STATISTICS = ("moments", "inputs", "outputs", "scales", "references")


def single_channels(network: Network) -> Iterator[Candidate]:
    """Yield each group at each of its levels, all else dense."""
    for name, levels in keep_levels(network, granule=1).items():
        yield from (Candidate(IMGSZ, ((name, level),)) for level in levels)


def single_bits(network: Network) -> Iterator[Candidate]:
    """Yield each convolution at each width, all else untouched."""
    for layer in network.layers:
        yield from (Candidate(IMGSZ, bits=((layer.name, bits, 8),)) for bits in WIDTHS)


def mixed(network: Network) -> Iterator[Candidate]:
    """Yield candidates with some channels less in all groups, and 8 bits in half of the layers."""
    random = np.random.default_rng(0)
    levels = keep_levels(network, granule=8)
    for _ in range(MIXED):
        kept = tuple((name, int(random.choice(some[:3]))) for name, some in levels.items())
        chosen = [layer.name for layer in network.layers if random.random() < 0.5]
        yield Candidate(IMGSZ, kept, tuple((name, 8, 8) for name in chosen))


def main(
    shared: Annotated[Path, typer.Option(help="the folder of real data")] = Path("../shared"),
) -> None:
    """Measure and print."""
    if not (shared / "weights").is_dir():
        typer.echo(f"The real weights and images are not here: no folder {shared}. Skipped.")
        return
    torch.set_num_threads(1)
    detector = load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")
    data = str(shared / "coco" / "coco.yaml")
    calibration = load_dataset(data, "train").subset(IMAGES)
    validation = load_dataset(data, "val").subset(IMAGES)
    network = analyse(detector, IMGSZ)
    ranking = rank(detector, network, "residual", as_input(calibration.squares(IMGSZ)))
    table = Table("what", "count", "seconds", "each ms", title=f"yolov5n, {IMGSZ} px, one thread")

    def note(what: str, count: int, seconds: float) -> None:
        table.add_row(what, f"{count}", f"{seconds:.1f}", f"{1e3 * seconds / count:.0f}")

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETRIM_CACHE"] = folder
        for what in ("measured and stored", "read again"):
            dense = DenseAtSize(
                detector, network, IMGSZ, calibration, validation, PROXY_IMAGES, SUBSET_IMAGES,
                Database(),
            )  # fmt: skip
            start = time.perf_counter()
            for name in STATISTICS:
                getattr(dense, name)
            note(f"statistics {what}", len(STATISTICS), time.perf_counter() - start)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        evaluator = Evaluator(detector, network, ranking, calibration, validation)
        for what, candidates in (
            ("groups at all levels", list(single_channels(network))),
            ("convolutions at all widths", list(single_bits(network))),
            ("mixed candidates", list(mixed(network))),
        ):
            start = time.perf_counter()
            for candidate in candidates:
                evaluator.build(candidate, "subset")
            note(what, len(candidates), time.perf_counter() - start)
    Console(width=100).print(table, f"{size / 1e6:.0f} MB on disk")


if __name__ == "__main__":
    typer.run(main)
