"""The files a run leaves: front.csv and picks.json, and the same as tables on the terminal.

A predicted latency stands in `latency_ms`, a measured one in `measured_ms`; an empty cell means
that nothing was measured.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table

from hw_models.workload import ConvShape
from search.front import RECOVERED, Point
from search.measure import Timed
from search.problem import Problem, accuracy
from search.run_folder import RunFolder, write_whole
from search.settings import Limits
from search.stock import Rival, rivals

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
        measured: Measured latencies, by candidate digest or, of recovered points, by id; None for a
            run without a device, whose picks are those predicted to be within their budgets.
    """

    front: tuple[Point, ...]
    dense: tuple[Point, ...]
    limits: tuple[Limits, ...]
    exported: dict[str, float]
    measured: Mapping[str, Timed] | None = None

    def meets(self, point: Point, limit: Limits) -> bool:
        """Whether a point is within a limit: as measured, in a run with a device."""
        if self.measured is None:
            return limit.met_by(point.cost, point.score)
        timed = self.time(point)
        others = limit.besides_latency.met_by(point.cost, point.score)
        return timed is not None and timed.within(limit.latency_ms) and others

    def time(self, point: Point) -> Timed | None:
        """Return the measured latency of a point, if it was measured."""
        key = point.id if point.method == RECOVERED else point.candidate.digest
        return (self.measured or {}).get(key)

    def pick(self, limit: Limits) -> Point | None:
        """Return the most accurate point of the front within a limit."""
        return best_of(self.front, partial(self.meets, limit=limit))


def best_of(points: Iterable[Point], within: Callable[[Point], bool]) -> Point | None:
    """Return the most accurate of some points, the faster one of equals; None if none is within."""
    chosen = [point for point in points if within(point)]
    if not chosen:
        return None
    return max(chosen, key=lambda p: (accuracy(p.score), -p.cost.latency_ms))


def beats_stock(point: Point, dense: Sequence[Point], stock: Sequence[Rival] = ()) -> bool | None:
    """Tell whether a point is more accurate than what is to be had uncompressed at its latency.

    See `to_beat`; None where nothing uncompressed is as fast.
    """
    value = to_beat(point, dense, stock)
    return None if value is None else accuracy(point.score) > value


def to_beat(point: Point, dense: Sequence[Point], stock: Sequence[Rival] = ()) -> float | None:
    """Return the mAP50-95 that is to be had uncompressed at a point's latency.

    Scaling the input size is the cheapest way to a faster model; between the measured sizes the
    curve is taken as linear. On COCO there are the smaller stock models, too.

    Args:
        point: The compressed point.
        dense: The dense model at several input sizes.
        stock: Published models, from `search.stock.rivals`.

    Returns:
        None where nothing uncompressed is as fast.
    """
    curve = sorted((p.cost.latency_ms, accuracy(p.score)) for p in dense)
    latencies, accuracies = zip(*curve, strict=True)
    values = [rival.map50_95 for rival in stock if rival.latency_ms <= point.cost.latency_ms]
    if point.cost.latency_ms >= latencies[0]:
        values.append(float(np.interp(point.cost.latency_ms, latencies, accuracies)))
    return max(values, default=None)


def front_rows(problem: Problem, result: Result) -> list[dict[str, Any]]:
    """Return the rows of front.csv: the points, fastest first, then the dense model."""
    return [_row(problem, result, point) for point in (*result.front, result.dense[0])]


def _row(problem: Problem, result: Result, point: Point) -> dict[str, Any]:
    cost, score, timed = point.cost, point.score, result.time(point)
    beats = None
    if point.id != "dense":
        beats = beats_stock(point, result.dense, rivals(problem, result.dense))
    values = (
        point.id,
        point.method,
        _digits(score.map50_95),
        _digits(score.map50),
        _digits(result.exported.get(point.id)),
        _digits(cost.latency_ms),
        _digits(cost.low_ms),
        _digits(cost.high_ms),
        _digits(None if timed is None else timed.latency_ms),
        _digits(cost.energy_mj),
        _digits(cost.size_bytes / 1e6),
        _digits(cost.macs / 1e9),
        _digits(parameters(problem, point) / 1e6),
        point.candidate.imgsz,
        " ".join(limit.text for limit in result.limits if result.meets(point, limit)),
        "" if beats is None else ("yes" if beats else "no"),
        point.candidate.digest,
    )
    return dict(zip(COLUMNS, values, strict=True))


def parameters(problem: Problem, point: Point) -> int:
    """Count weights and biases, batch norm folded."""
    layers = problem.space.workload(point.candidate).layers
    return sum(x.weights + x.out_channels for x in layers if isinstance(x, ConvShape))


def _digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def front_text(problem: Problem, result: Result) -> str:
    """Return the content of front.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(front_rows(problem, result))
    return text.getvalue()


def write_outputs(run: RunFolder, problem: Problem, result: Result) -> None:
    """Write front.csv and picks.json."""
    write_whole(run.front, front_text(problem, result))
    write_whole(run.picks, json.dumps(pick_records(result), indent=2) + "\n")


def pick_records(result: Result) -> list[dict[str, Any]]:
    """Return one record a latency budget that a point of the front meets."""
    records = []
    for limit in result.limits:
        point = result.pick(limit)
        if point is None:
            continue
        timed = result.time(point)
        records.append(
            {
                "id": point.id,
                "budget": limit.text,
                "budget_ms": limit.latency_ms,
                "latency_ms": point.cost.latency_ms,
                "latency_low_ms": point.cost.low_ms,
                "latency_high_ms": point.cost.high_ms,
                "measured_ms": None if timed is None else timed.latency_ms,
                "measured_spread_ms": None if timed is None else timed.spread_ms,
                "measured_on": None if timed is None else timed.device,
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
    headers = ("id", "mAP50-95", "mAP50", "latency ms", "90 % interval",
               *(() if result.measured is None else ("measured ms",)),
               "mJ", "MB", "GMACs", "px", "meets", "beats stock")  # fmt: skip
    for header in headers:
        table.add_column(header, justify="left" if header in ("id", "meets") else "right")
    for row in front_rows(problem, result):
        table.add_row(
            row["id"],
            f"{float(row['map50_95']):.3f}",
            f"{float(row['map50']):.3f}",
            f"{float(row['latency_ms']):.2f}",
            f"{float(row['latency_low_ms']):.2f}–{float(row['latency_high_ms']):.2f}",
            *(() if result.measured is None else (_two_digits(row["measured_ms"]),)),
            f"{float(row['energy_mj']):.1f}" if row["energy_mj"] else "",
            f"{float(row['size_mb']):.2f}",
            f"{float(row['macs_g']):.3f}",
            str(row["imgsz"]),
            row["meets"],
            row["beats_stock"],
        )
    return table


def _two_digits(value: str) -> str:
    return f"{float(value):.2f}" if value else ""


LEVEL = 0.005
"""Difference in mAP50-95 that validation images hardly tell."""


def advice(result: Result) -> str:
    """Say what else would help, if that is plain to see."""
    picks = [(limit, point) for limit in result.limits if (point := result.pick(limit)) is not None]
    dense = {point.candidate for point in result.dense}
    lines = [line for limit, point in picks if (line := _level_line(result, limit, point))]
    if any(beats_stock(p, result.dense) is False and p.candidate not in dense for _, p in picks):
        sizes = ",".join(str(point.candidate.imgsz) for point in result.dense)
        lines.append(f"A smaller input alone does as well here: let it vary with --imgsz {sizes}.")
    return "\n".join(dict.fromkeys(lines))


def hardly_worse(result: Result, limit: Limits, point: Point) -> Point | None:
    """Return the fastest point that is hardly less accurate than the pick, if much faster."""
    level = [
        other
        for other in result.front
        if result.meets(other, limit) and accuracy(other.score) >= accuracy(point.score) - LEVEL
    ]
    fastest = min(level, key=lambda other: other.cost.latency_ms, default=point)
    return None if fastest.cost.latency_ms > 0.95 * point.cost.latency_ms else fastest


def _level_line(result: Result, limit: Limits, point: Point) -> str:
    fastest = hardly_worse(result, limit, point)
    if fastest is None:
        return ""
    return (
        f"{fastest.id} is hardly less accurate than {point.id}: mAP50-95 "
        f"{accuracy(fastest.score):.3f} at {fastest.cost.latency_ms:.2f} ms predicted and "
        f"{fastest.cost.size_bytes / point.cost.size_bytes:.0%} of its size."
    )


def describe_pick(result: Result, limit: Limits) -> str:
    """Say in one line what was found for a budget."""
    point, dense = result.pick(limit), result.dense[0]
    if point is None:
        floor = "" if limit.map50_95 is None else f" with mAP50-95 of at least {limit.map50_95:.3f}"
        times = [timed.latency_ms for timed in (result.measured or {}).values()]
        lowest = f"; the lowest measured latency is {min(times):.2f} ms" if times else ""
        return f"{limit.text}: no point{floor} within all budgets{lowest}"
    exported = result.exported.get(point.id)
    file = "" if exported is None else f", exported file {exported:.3f}"
    already = " (met by the dense model already)" if result.meets(dense, limit) else ""
    timed, of_dense = result.time(point), result.time(dense)
    if timed is not None and of_dense is not None:
        return (
            f"{limit.text}{already}: {point.id}, mAP50-95 {accuracy(point.score):.3f}{file} "
            f"(dense {accuracy(dense.score):.3f}) at {timed.latency_ms:.2f} ± {timed.spread_ms:.2f}"
            f" ms measured ({point.cost.latency_ms:.2f} predicted), "
            f"{timed.at_first_speed_ms / of_dense.latency_ms:.0%} of dense"
        )
    return (
        f"{limit.text}{already}: {point.id}, mAP50-95 {accuracy(point.score):.3f}{file} "
        f"(dense {accuracy(dense.score):.3f}) at {point.cost.latency_ms:.2f} ms predicted, "
        f"{point.cost.latency_ms / dense.cost.latency_ms:.0%} of dense"
    )
