"""The files a run leaves: front.csv and picks.json, and the same as tables on the terminal.

A predicted latency stands in `latency_ms`, a measured one in `measured_ms`; an empty cell means
that nothing was measured.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from hw_models.workload import ConvShape
from search.front import Point, pick
from search.problem import Problem, accuracy
from search.run_folder import RunFolder, write_whole
from search.settings import Limits

COLUMNS = (
    "id", "method", "map50_95", "map50", "map50_95_exported", "latency_ms", "latency_low_ms",
    "latency_high_ms", "measured_ms", "energy_mj", "size_mb", "macs_g", "params_m", "imgsz",
    "meets", "beats_stock", "digest",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found.

    Attributes:
        front: Mutually non-dominated points, fastest first.
        dense: The uncompressed model at several input sizes, the largest first.
        limits: One entry a latency budget, with the accuracy floor if one was asked.
        exported: mAP50-95 of the exported files, by point id.
    """

    front: tuple[Point, ...]
    dense: tuple[Point, ...]
    limits: tuple[Limits, ...]
    exported: dict[str, float]

    def pick(self, limit: Limits) -> Point | None:
        """Return the most accurate point of the front within a limit."""
        return pick(self.front, limit)


def beats_stock(point: Point, dense: Sequence[Point]) -> bool | None:
    """Tell whether a point is more accurate than the dense model scaled to the same latency.

    Scaling the input size is the cheapest way to a faster model; between the measured sizes the
    curve is taken as linear.

    Args:
        point: The compressed point.
        dense: The dense model at several input sizes.

    Returns:
        None where the curve does not reach: the point is faster than the dense model at its
        smallest scored size.
    """
    curve = sorted((p.cost.latency_ms, accuracy(p.score)) for p in dense)
    latencies, accuracies = zip(*curve, strict=True)
    if point.cost.latency_ms < latencies[0]:
        return None
    stock = float(np.interp(point.cost.latency_ms, latencies, accuracies))
    return accuracy(point.score) > stock


def front_rows(problem: Problem, result: Result) -> list[dict[str, Any]]:
    """Return the rows of front.csv: the points, fastest first, then the dense model."""
    return [_row(problem, result, point) for point in (*result.front, result.dense[0])]


def _row(problem: Problem, result: Result, point: Point) -> dict[str, Any]:
    cost, score = point.cost, point.score
    beats = None if point.id == "dense" else beats_stock(point, result.dense)
    values = (
        point.id,
        point.method,
        _digits(score.map50_95),
        _digits(score.map50),
        _digits(result.exported.get(point.id)),
        _digits(cost.latency_ms),
        _digits(cost.low_ms),
        _digits(cost.high_ms),
        "",
        _digits(cost.energy_mj),
        _digits(cost.size_bytes / 1e6),
        _digits(cost.macs / 1e9),
        _digits(_parameters(problem, point) / 1e6),
        point.candidate.imgsz,
        " ".join(limit.text for limit in result.limits if limit.met_by(cost, score)),
        "" if beats is None else ("yes" if beats else "no"),
        point.candidate.digest,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _parameters(problem: Problem, point: Point) -> int:
    """Count weights and biases, batch norm folded."""
    layers = problem.space.workload(point.candidate).layers
    return sum(x.weights + x.out_channels for x in layers if isinstance(x, ConvShape))


def _digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def write_outputs(run: RunFolder, problem: Problem, result: Result) -> None:
    """Write front.csv and picks.json."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(front_rows(problem, result))
    write_whole(run.front, text.getvalue())
    write_whole(run.picks, json.dumps(pick_records(result), indent=2) + "\n")


def pick_records(result: Result) -> list[dict[str, Any]]:
    """Return one record a latency budget that a point of the front meets."""
    records = []
    for limit in result.limits:
        point = result.pick(limit)
        if point is None:
            continue
        records.append(
            {
                "id": point.id,
                "budget": limit.text,
                "budget_ms": limit.latency_ms,
                "latency_ms": point.cost.latency_ms,
                "latency_low_ms": point.cost.low_ms,
                "latency_high_ms": point.cost.high_ms,
                "measured_ms": None,
                "map50_95": point.score.map50_95,
                "map50": point.score.map50,
                "map50_95_exported": result.exported.get(point.id),
                "imgsz": point.candidate.imgsz,
                "model": f"models/{point.id}/model.onnx",
            }
        )
    return records


def front_table(problem: Problem, result: Result) -> Table:
    """Return the front as a table for the terminal."""
    table = Table(title=f"Pareto front on {problem.settings.target} (latency predicted)")
    headers = ("id", "mAP50-95", "mAP50", "latency ms", "90 % interval", "mJ", "MB", "GMACs", "px",
               "meets", "beats stock")  # fmt: skip
    for header in headers:
        table.add_column(header, justify="left" if header in ("id", "meets") else "right")
    for row in front_rows(problem, result):
        table.add_row(
            row["id"],
            f"{float(row['map50_95']):.3f}",
            f"{float(row['map50']):.3f}",
            f"{float(row['latency_ms']):.2f}",
            f"{float(row['latency_low_ms']):.2f}–{float(row['latency_high_ms']):.2f}",
            f"{float(row['energy_mj']):.1f}" if row["energy_mj"] else "",
            f"{float(row['size_mb']):.2f}",
            f"{float(row['macs_g']):.3f}",
            str(row["imgsz"]),
            row["meets"],
            row["beats_stock"],
        )
    return table


def advice(result: Result) -> str:
    """Say what else would help, if that is plain to see."""
    picks = [point for limit in result.limits if (point := result.pick(limit)) is not None]
    if not any(beats_stock(point, result.dense) is False for point in picks):
        return ""
    sizes = ",".join(str(point.candidate.imgsz) for point in result.dense)
    return f"A smaller input alone does as well here: let it vary with --imgsz {sizes}."


def describe_pick(result: Result, limit: Limits) -> str:
    """Say in one line what was found for a budget."""
    point, dense = result.pick(limit), result.dense[0]
    if point is None:
        floor = "" if limit.map50_95 is None else f" with mAP50-95 of at least {limit.map50_95:.3f}"
        return f"{limit.text}: no point{floor} within all budgets"
    exported = result.exported.get(point.id)
    file = "" if exported is None else f", exported file {exported:.3f}"
    already = " (met by the dense model already)" if limit.met_by(dense.cost, dense.score) else ""
    return (
        f"{limit.text}{already}: {point.id}, mAP50-95 {accuracy(point.score):.3f}{file} "
        f"(dense {accuracy(dense.score):.3f}) at {point.cost.latency_ms:.2f} ms predicted, "
        f"{point.cost.latency_ms / dense.cost.latency_ms:.0%} of dense"
    )
