"""Channel pruning of YOLOv5n without fine-tuning: `python -m benchmarks.pruning`.

The model is the classic YOLOv5n of COCO. Images to rank, fit and choose on are training images of
../shared/coco, without their labels; its validation images are only scored on. Three sections:

* `uniform`: the same share of every group removed (416 px), for each criterion and restoration.
* `choice`: -10 % and -20 % MACs at 320 px, how much of which group chosen by a mixed-integer
  program on what removing it alone does to the detections, and by a search around its choice.
* `sizes`: the dense model at smaller input sizes, the curve that pruning has to beat.

Finished rows are kept in a file (`--rows`): a run that was stopped goes on, and a row
is measured again when its line is deleted.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.accuracy import as_text, retention
from benchmarks.channel_choice import choice
from benchmarks.pruned import RESTORATIONS, Bench, load
from benchmarks.rows import Figures, kept_row
from evaluators.detection import Accuracy
from spaces.saliency import CRITERIA

UNIFORM_IMGSZ = 416
CHOICE_IMGSZ = 320
SIZES = (416, 384, 352, 320, 288, 256, 224)
CUTS = (0.1, 0.2)  # of the MACs


def uniform(
    bench: Bench, criteria: Sequence[str], rates: Sequence[float], rows: Path
) -> Iterator[str]:
    """Remove the same share of every group; yield a line for each criterion and rate."""
    sizes = bench.network.sizes
    dense_macs = bench.macs(sizes[None])[0]
    yield (
        f"uniform, {bench.imgsz} px, {len(bench.validation)} validation images, dense mAP50-95 "
        f"{bench.dense_accuracy.map50_95:.4f}; retention ± its error in %"
    )
    for rate in rates:
        counts = sizes - np.rint(rate * sizes).astype(np.int64)
        yield (
            f"{rate:.0%} of each group: {int((sizes - counts).sum())} of {int(sizes.sum())} "
            f"channels, {1 - bench.macs(counts[None])[0] / dense_macs:.1%} of the MACs"
        )
    yield "criterion          rate  " + "  ".join(f"{name:>12}" for name in RESTORATIONS)
    images = f"{len(bench.validation)} images, resampled"
    for criterion, rate in itertools.product(criteria, rates):
        row = f"uniform | {criterion} | {rate:.0%} | {images}"
        figures = kept_row(rows, row, partial(_uniform_row, bench, criterion, rate))
        cells = "  ".join(f"{as_text(figures[name]):>12}" for name in RESTORATIONS)
        yield f"{criterion:18} {rate:4.0%}  {cells}"


def _uniform_row(bench: Bench, criterion: str, rate: float) -> Figures:
    """Return the retention with each restoration, and the seconds of ranking and of each."""
    sizes = bench.network.sizes
    candidate = bench.candidate(sizes - np.rint(rate * sizes).astype(np.int64))
    start = time.perf_counter()
    ranking = bench.ranking(criterion)
    figures: Figures = {"ranked in s": time.perf_counter() - start}
    for name in RESTORATIONS:
        start = time.perf_counter()
        net = bench.pruned(candidate, ranking, name)
        figures[f"{name} in s"] = time.perf_counter() - start
        figures[name] = retention(bench.accuracy(net), bench.dense_accuracy)
    return figures


def sizes(shared: Path, images: int) -> Iterator[str]:
    """Score the dense model at smaller input sizes; yield a line for each."""
    yield "input size alone; MACs and retention ± its error in % of those at 416 and at 320 px"
    scored: dict[int, tuple[float, Accuracy]] = {}
    for imgsz in SIZES:
        bench = load(shared, images, imgsz)
        scored[imgsz] = (float(bench.macs(bench.network.sizes[None])[0]), bench.dense_accuracy)
    for imgsz, (macs, accuracy) in scored.items():
        shares = "   ".join(
            f"{macs / scored[whole][0]:7.1%} {as_text(retention(accuracy, scored[whole][1]))}"
            for whole in (UNIFORM_IMGSZ, CHOICE_IMGSZ)
        )
        yield f"{imgsz} px  mAP50-95 {accuracy.map50_95:.4f}   {shares}"


def main(
    images: Annotated[int, typer.Option(help="validation images; 0: all")] = 0,
    criteria: Annotated[str, typer.Option(help="of the uniform section")] = ",".join(CRITERIA),
    rates: Annotated[str, typer.Option(help="of the uniform section")] = "0.05,0.1,0.2",
    only: Annotated[str, typer.Option(help="sections")] = "uniform,choice,sizes",
    shared: Annotated[Path, typer.Option(help="the folder of real data")] = Path("../shared"),
    rows: Annotated[Path, typer.Option(help="where finished rows are kept")] = Path(
        "runs/benchmarks/pruning.jsonl"
    ),
) -> None:
    """Measure and print."""
    if not (shared / "weights").is_dir():
        typer.echo(f"The real weights and images are not here: no folder {shared}. Skipped.")
        return
    sections: Mapping[str, Callable[[], Iterator[str]]] = {
        "uniform": lambda: uniform(
            load(shared, images, UNIFORM_IMGSZ),
            criteria.split(","),
            [float(rate) for rate in rates.split(",")],
            rows,
        ),
        "choice": lambda: choice(load(shared, images, CHOICE_IMGSZ), CUTS, rows),
        "sizes": lambda: sizes(shared, images),
    }
    for name, known in [(name, CRITERIA) for name in criteria.split(",")] + [
        (name, sections) for name in only.split(",")
    ]:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    for name in only.split(","):
        for line in sections[name]():
            typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
