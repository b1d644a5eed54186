"""Few bits on YOLOv5n, without training: `python -m benchmarks.quantization`.

The classic YOLOv5n of COCO at 416 px. Weights, clips and bits are chosen on unlabelled training
images of ../shared/coco; retention is the share of the dense network's mAP50-95 kept on its
validation images. Sizes count weights, scales and biases (the latter two as float32) and are shares
of the float32 size. Parts:

    uniform      one width for all layers: plain MSE rounding, and reconstructed
    mixed        widths chosen layer by layer for a size, beside error-limit and uniform widths
    calibrators  every way to choose clips, plain rounding
    roundings    every rounding, alone and with the sequential refit
    grids        other grids and corrections, plain rounding

Finished rows are kept in a file (`--rows`): a part that was stopped goes on, and a row is measured
again when its line is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.accuracy import as_text, retention
from benchmarks.quantized import (
    IMGSZ,
    MIXED_WIDTHS,
    Bench,
    asymmetric,
    auto_clips,
    by_evidence,
    calibrated,
    codebook_share,
    codebooks,
    corrected,
    error_limit,
    lapq,
    logarithmic,
    matched,
    mixed_bits,
    per_tensor,
    shifts,
    with_hooks,
    with_zero_points,
)
from benchmarks.rows import Figures, kept_row
from evaluators.dataset import load_dataset
from evaluators.dense import as_input
from evaluators.reconstruct import Method
from spaces.model import load_detector
from spaces.quantization.calibrators import CALIBRATORS
from spaces.quantization.dynamic import DynamicRounding
from spaces.quantization.rounding import ROUNDINGS
from spaces.quantization.rounding.auto import fixed

UNIFORM = (  # weight bits, activation bits, wanted retention
    (8, 8, 99.5),
    (6, 8, 97.0),
    (5, 8, 94.0),
    (4, 8, 87.0),
    (4, 16, 87.0),
    (3, 16, 65.0),
)
MIXED = ((17.4, 98.0), (15.8, 96.0), (12.5, 90.0))  # % of the float32 size, wanted retention


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a network to be made, and what is wanted of it."""

    name: str
    make: Callable[[], nn.Module]
    size: float
    wanted: float | None = None


def uniform_rows(bench: Bench) -> Iterator[Row]:
    """Yield one width for all layers, plain and reconstructed."""
    for weight_bits, act_bits, wanted in UNIFORM:
        bits = bench.uniform(weight_bits, act_bits)
        name, size = f"W{weight_bits}A{act_bits}", bench.size(bits)
        yield Row(f"{name}, plain MSE", partial(bench.plain, bits), size)
        yield Row(f"{name}, reconstructed", partial(bench.reconstructed, bits), size, wanted)
        if act_bits < 16:
            yield Row(f"{name}, reconstructed, auto clips", partial(by_evidence, bench, bits), size)
            what = f"{name}, activations asymmetric"
            yield Row(
                f"{what}, plain MSE", partial(asymmetric, bench, bits, act_bits), size, wanted
            )
            yield Row(
                f"{what}, reconstructed", partial(with_zero_points, bench, bits), size, wanted
            )
            precise = bench.precise_boxes(bits)
            what = f"{name}, Detect reads 16 bits"
            yield Row(f"{what}, plain MSE", partial(bench.plain, precise), size)
            yield Row(f"{what}, reconstructed", partial(bench.reconstructed, precise), size, wanted)
            what = f"{what}, asymmetric"
            yield Row(
                f"{what}, reconstructed", partial(with_zero_points, bench, precise), size, wanted
            )


def mixed_rows(bench: Bench) -> Iterator[Row]:
    """Yield widths chosen for a size: by program, by error limit, and one for all below it."""
    for share, wanted in MIXED:
        bits = mixed_bits(bench, share)
        limited = error_limit(bench, share)
        widest = max(b for b in MIXED_WIDTHS if bench.size(bench.uniform(b, 8)) <= share)
        one = bench.uniform(widest, 8)
        choices = (("MILP", bits, wanted), ("error limit", limited, None), ("uniform", one, None))
        for name, chosen, target in choices:
            size = bench.size(chosen)
            yield Row(f"{share} %: {name}, plain MSE", partial(bench.plain, chosen), size)
            yield Row(
                f"{share} %: {name}, reconstructed",
                partial(bench.reconstructed, chosen),
                size,
                target,
            )
        precise, size = bench.precise_boxes(bits), bench.size(bits)
        for what, make in (
            ("activations asymmetric", partial(with_zero_points, bench, bits)),
            ("Detect reads 16 bits", partial(bench.reconstructed, precise)),
            ("Detect reads 16 bits, asymmetric", partial(with_zero_points, bench, precise)),
        ):
            yield Row(f"{share} %: MILP, {what}, reconstructed", make, size, wanted)


def calibrator_rows(bench: Bench) -> Iterator[Row]:
    """Yield all calibrators for weights and activations, rounding to nearest."""
    for weight_bits, act_bits in ((8, 8), (6, 6)):
        bits = bench.uniform(weight_bits, act_bits)
        name, size = f"W{weight_bits}A{act_bits}", bench.size(bits)
        for calibrator in CALIBRATORS:
            yield Row(f"{name}, {calibrator}", partial(calibrated, bench, bits, calibrator), size)
        yield Row(f"{name}, LAPQ with its search", partial(lapq, bench, bits), size)
        yield Row(f"{name}, auto clips", partial(auto_clips, bench, bits), size)


def rounding_rows(bench: Bench) -> Iterator[Row]:
    """Yield all roundings, alone and after the sequential refit."""
    bits = bench.uniform(4, 8)
    size = bench.size(bits)
    for rounding, function in ROUNDINGS.items():
        choice = fixed("mse", function)
        for name, method in (
            ("alone", Method(choice, ridges=())),
            ("with refit", Method(choice)),
        ):
            yield Row(f"W4A8, {rounding} {name}", partial(bench.reconstructed, bits, method), size)
    yield Row("W4A8, auto alone", partial(bench.reconstructed, bits, Method(ridges=())), size)
    yield Row("W4A8, auto with refit", partial(bench.reconstructed, bits), size)


def grid_rows(bench: Bench) -> Iterator[Row]:
    """Yield other grids and corrections, rounded to nearest."""
    eight, five = bench.uniform(8, 8), bench.uniform(5, 8)
    size_8, size_5 = bench.size(eight), bench.size(five)
    yield Row("W8A8, one scale a tensor", partial(per_tensor, bench, eight), size_8)
    yield Row("W8A8, steps powers of two", partial(shifts, bench, eight), size_8)
    for bits in (8, 6):
        both = bench.uniform(8, bits)
        yield Row(f"W8A{bits}, symmetric", partial(bench.plain, both), size_8)
        yield Row(
            f"W8A{bits}, asymmetric",
            partial(asymmetric, bench, both, bits),
            size_8,
        )
        yield Row(
            f"W8A{bits}, dynamic",
            partial(with_hooks, bench, both, dict.fromkeys(both, DynamicRounding(bits))),
            size_8,
        )
        yield Row(
            f"W8A{bits}, logarithmic with SiLU shift",
            partial(logarithmic, bench, both, bits),
            size_8,
        )
    yield Row("W5A8, plain MSE", partial(bench.plain, five), size_5)
    yield Row("W5A8, bias correction", partial(corrected, bench, five), size_5)
    yield Row("W5A8, batch-norm matching", partial(matched, bench, five), size_5)
    yield Row("W5A8, k-means codebooks", partial(codebooks, bench, 5), codebook_share(bench, 5))


PARTS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "uniform": uniform_rows,
    "mixed": mixed_rows,
    "calibrators": calibrator_rows,
    "roundings": rounding_rows,
    "grids": grid_rows,
}


def main(
    parts: Annotated[
        list[str] | None, typer.Option("--part", help=f"Of {', '.join(PARTS)}; all if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Validation images; fewer are noisier.")] = 10_000,
    calibration: Annotated[int, typer.Option(help="Training images to choose on.")] = 64,
    shared: Annotated[Path, typer.Option(help="The folder of real weights and images.")] = Path(
        "../shared"
    ),
    rows: Annotated[Path, typer.Option(help="Where finished rows are kept.")] = Path(
        "runs/benchmarks/quantization.jsonl"
    ),
) -> None:
    """Print retention, size and time of each row."""
    console = Console(width=100)
    if not shared.is_dir():
        console.print(f"No folder {shared}: the real weights and images are not here. Skipped.")
        return
    unknown = set(parts or ()) - PARTS.keys()
    if unknown:
        raise typer.BadParameter(f"expected of {', '.join(PARTS)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    data = shared / "coco" / "coco.yaml"
    squares = load_dataset(data, "train").subset(calibration).squares(IMGSZ)
    bench = Bench(
        load_detector(shared / "weights" / "yolov5n_v6.1_official.pt"),
        as_input(squares),
        load_dataset(data, "val").subset(images),
    )
    console.print(
        f"dense mAP50-95 {bench.dense_accuracy.map50_95:.4f} on {len(bench.validation)} validation"
        f" images; {len(squares)} training images to choose on"
    )
    for part in parts or PARTS:
        console.print(_measured(part, bench, rows, console))


def _measured(part: str, bench: Bench, rows: Path, console: Console) -> Table:
    table = Table(
        "", "size %", "retention ± error, %", "wanted %", "s", title=part, title_justify="left"
    )
    images = f"{len(bench.validation)} + {len(bench.calibration_images)} images, resampled"
    for row in PARTS[part](bench):
        figures = kept_row(rows, f"{part} | {row.name} | {images}", partial(_figures, row, bench))
        kept = as_text(figures["retention"])
        wanted = "" if row.wanted is None else f">= {row.wanted:g}"
        seconds = f"{figures['seconds']:.0f}"
        table.add_row(row.name, f"{row.size:.1f}", kept, wanted, seconds)
        console.print(f"[dim]{row.name}: {kept} %", highlight=False)
    return table


def _figures(row: Row, bench: Bench) -> Figures:
    start = time.perf_counter()
    net = row.make()
    seconds = time.perf_counter() - start
    kept = retention(bench.measure(net), bench.dense_accuracy)
    return {"size": row.size, "retention": kept, "seconds": seconds}


if __name__ == "__main__":
    typer.run(main)
