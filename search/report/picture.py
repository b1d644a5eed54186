"""The front as a picture: accuracy against predicted latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from search.front import Point
from search.outputs import Result
from search.problem import Problem, accuracy

BLUE, GREY, RED, GREEN = "#1f5fa8", "#b8bcc2", "#c0392b", "#2e7d32"


def draw_front(path: Path, problem: Problem, result: Result, explored: Sequence[Point]) -> None:
    """Draw the explored points, the verified front, the dense curve, budgets and picks.

    Explored points were scored on a part of the images only, so they may lie above the front.
    """
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(
        *_xy(explored), s=9, color=GREY, label=f"explored, on few images ({len(explored)})"
    )
    dense = sorted(result.dense, key=lambda p: p.cost.latency_ms)
    axes.plot(*_xy(dense), "s--", color=GREEN, markersize=5, label="dense model, input size scaled")
    for point in dense:
        axes.annotate(
            f"{point.candidate.imgsz} px",
            (point.cost.latency_ms, accuracy(point.score)),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=8,
            color=GREEN,
        )
    images = len(problem.validation.images)
    axes.fill_betweenx(
        [accuracy(p.score) for p in result.front],
        [p.cost.low_ms for p in result.front],
        [p.cost.high_ms for p in result.front],
        color=BLUE, alpha=0.1, linewidth=0, label="90 % interval of its latency",
    )  # fmt: skip
    axes.plot(*_xy(result.front), "o-", color=BLUE, markersize=4, label=f"front ({images} images)")
    _mark_budgets(axes, result)
    axes.set(
        xlabel=f"predicted latency on {problem.settings.target}, ms",
        ylabel="mAP50-95",
        title=f"{Path(problem.settings.weights).name} on {problem.settings.target}",
    )
    slowest = max(p.cost.latency_ms for p in (*dense, *result.front))
    axes.set_xlim(0, slowest * 1.15)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def _mark_budgets(axes: Any, result: Result) -> None:
    """Draw a line at each budget that lies on the picture, and a star at each pick."""
    edge = max(p.cost.latency_ms for p in (*result.dense, *result.front)) * 1.15
    for limit in result.limits:
        if limit.latency_ms <= edge:
            axes.axvline(limit.latency_ms, color=RED, linewidth=0.8, linestyle=":")
            axes.text(
                limit.latency_ms, 0.99, f" {limit.text}", color=RED, fontsize=8, va="top",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    timed = [(time.latency_ms, accuracy(p.score)) for p in result.front if (time := result.time(p))]
    if timed:
        axes.plot(*zip(*timed, strict=True), "x", color=RED, markersize=6, label="measured latency")
    picks = {p.id: p for limit in result.limits if (p := result.pick(limit)) is not None}
    if picks:
        names = ", ".join(picks)
        axes.plot(
            *_xy(list(picks.values())), "*", color=RED, markersize=12, label=f"pick ({names})"
        )


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.cost.latency_ms for p in points], [accuracy(p.score) for p in points]
