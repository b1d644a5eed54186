"""The front as a picture: accuracy against predicted latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from search.report.value import PointView, Report

BLUE, GREY, RED, GREEN = "#1f5fa8", "#b8bcc2", "#c0392b", "#2e7d32"


def draw_front(path: Path, report: Report) -> None:
    """Draw the explored points, the verified front, the dense curve, budgets and picks.

    Explored points were scored on a part of the images only, so they may lie above the front.
    """
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(
        report.explored.latency_ms, report.explored.map50_95, s=9, color=GREY,
        label=f"explored, on few images ({len(report.explored.latency_ms)})",
    )  # fmt: skip
    dense = sorted(report.dense, key=lambda p: p.latency_ms)
    axes.plot(*_xy(dense), "s--", color=GREEN, markersize=5, label="dense model, input size scaled")
    for point in dense:
        axes.annotate(
            f"{point.imgsz} px",
            (point.latency_ms, point.map50_95),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=8,
            color=GREEN,
        )
    axes.fill_betweenx(
        [p.map50_95 for p in report.points],
        [p.low_ms for p in report.points],
        [p.high_ms for p in report.points],
        color=BLUE, alpha=0.1, linewidth=0, label="90 % interval of its latency",
    )  # fmt: skip
    images = report.images if report.complete else report.subset_images
    axes.plot(*_xy(report.points), "o-", color=BLUE, markersize=4, label=f"front ({images} images)")
    edge = max((p.latency_ms for p in (*dense, *report.points)), default=1.0) * 1.15
    _mark_budgets(axes, report, edge)
    axes.set(
        xlabel=f"predicted latency on {report.target}, ms", ylabel="mAP50-95", title=report.title
    )
    axes.set_xlim(0, edge)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def _mark_budgets(axes: Any, report: Report, edge: float) -> None:
    """Draw a line at each budget that lies on the picture, and a star at each pick."""
    for verdict in report.verdicts:
        if verdict.budget_ms <= edge:
            axes.axvline(verdict.budget_ms, color=RED, linewidth=0.8, linestyle=":")
            axes.text(
                verdict.budget_ms, 0.99, f" {verdict.budget}", color=RED, fontsize=8, va="top",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    timed = [(p.measured.latency_ms, p.map50_95) for p in report.points if p.measured]
    if timed:
        axes.plot(*zip(*timed, strict=True), "x", color=RED, markersize=6, label="measured latency")
    chosen = {verdict.pick for verdict in report.verdicts}
    picks = [point for point in report.points if point.id in chosen]
    if picks:
        names = ", ".join(point.id for point in picks)
        axes.plot(*_xy(picks), "*", color=RED, markersize=12, label=f"pick ({names})")


def _xy(points: Sequence[PointView]) -> tuple[list[float], list[float]]:
    return [p.latency_ms for p in points], [p.map50_95 for p in points]
