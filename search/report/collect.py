"""From what a run knows to the value that is shown. Nothing is evaluated here, only priced."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import yaml

from evaluators.details import EXAMPLE_IMAGES
from evaluators.evaluator import SUBSET_IMAGES
from hw_models.cost import Cost
from hw_models.workload import CONVERSION, ConvShape
from search.front import Point
from search.journal import read_entries
from search.outputs import Result, describe_pick, hardly_worse, parameters, to_beat
from search.problem import Problem, accuracy
from search.report.device_fit import device_fit
from search.report.examples import examples_of
from search.report.history import history_of
from search.report.moves import Moves
from search.report.value import (
    Along,
    Explored,
    Gap,
    Measured,
    PointView,
    Report,
    Step,
    Stock,
    Verdict,
)
from search.run_folder import RunFolder
from search.settings import Limits
from search.stock import rivals

T = TypeVar("T")


def collect(run: RunFolder, problem: Problem, result: Result, explored: Sequence[Point]) -> Report:
    """Return everything that the page of a run shows.

    Args:
        run: Its journal and study.yaml are read.
        problem: What was searched.
        result: What was found.
        explored: The points scored on the subset.
    """
    entries = list(read_entries(run.journal))
    moves = Moves(problem, result.dense, entries)
    stock = rivals(problem, result.dense)
    views = [_view(problem, result, point, stock, moves) for point in result.front]
    dense = [
        _view(problem, result, replace(point, id=dense_id(result, point)), stock, moves)
        for point in result.dense
    ]
    content = yaml.safe_load(run.study.read_text(encoding="utf-8"))
    settings = problem.settings
    return Report(
        title=f"{Path(settings.weights).stem} on {Path(settings.target).stem}",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        complete=bool(views) and all(view.rung == "full" for view in views),
        target=Path(settings.target).stem,
        objectives=tuple(
            name for name in ("energy", "size") if getattr(settings, name) is not None
        ),
        images=len(problem.validation),
        subset_images=min(SUBSET_IMAGES, len(problem.validation)),
        classes=problem.validation.names,
        verdicts=tuple(_verdict(result, limit) for limit in result.limits),
        points=tuple(views),
        dense=tuple(dense),
        stock=tuple(Stock(rival.name, rival.latency_ms, rival.map50_95) for rival in stock),
        explored=_explored(explored),
        steps=_steps(problem, result.dense[0]),
        variables=moves.variables,
        history=history_of(entries, problem, explored),
        device=device_fit(settings.target, problem.model.mode, settings.power_mode),
        examples=examples_of(problem.validation.subset(EXAMPLE_IMAGES)),
        settings=_plain(content["settings"]),
        resolved=_plain(content["resolved"]),
    )


def dense_id(result: Result, point: Point) -> str:
    """Name the dense model at one input size."""
    largest = point.candidate.imgsz == result.dense[0].candidate.imgsz
    return "dense" if largest else f"dense@{point.candidate.imgsz}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given; no key or token file is named on a page that travels."""
    secret = {"token_file", "tls_key", "tls_cert", "tls_ca"}
    return {key: value for key, value in values.items() if value not in (None, [], "", False)
            and key not in secret}  # fmt: skip


def _verdict(result: Result, limit: Limits) -> Verdict:
    pick = result.pick(limit)
    faster = None if pick is None else hardly_worse(result, limit, pick)
    return Verdict(
        budget=limit.text,
        budget_ms=limit.latency_ms,
        pick=None if pick is None else pick.id,
        met_by_dense=result.meets(result.dense[0], limit),
        level_with=None if faster is None else faster.id,
        sentence=describe_pick(result, limit),
    )


def _view(
    problem: Problem, result: Result, point: Point, stock: Sequence[Any], moves: Moves
) -> PointView:
    cost = problem.cost(point.candidate)  # layer by layer, which a point of a batch lacks
    timed, details = result.time(point), point.score.details
    error = _spread(point.score.resampled)
    is_dense = point.id.startswith("dense")
    return PointView(
        id=point.id,
        method=point.method,
        digest=point.candidate.digest,
        imgsz=point.candidate.imgsz,
        map50_95=accuracy(point.score),
        map50=point.score.map50 or 0.0,
        rung=point.score.rung,
        error=error,
        exported=result.exported.get(point.id),
        latency_ms=point.cost.latency_ms,
        low_ms=point.cost.low_ms,
        high_ms=point.cost.high_ms,
        measured=None
        if timed is None
        else Measured(timed.latency_ms, timed.spread_ms, timed.device),
        energy_mj=_known(point.cost.energy_mj),
        size_mb=point.cost.size_bytes / 1e6,
        macs_g=point.cost.macs / 1e9,
        params_m=parameters(problem, point) / 1e6,
        meets=tuple(limit.text for limit in result.limits if result.meets(point, limit)),
        to_dense=None if point.id == "dense" else _to_dense(point, result.dense[0]),
        to_stock=None if is_dense else _to_stock(point, result.dense, stock),
        level=moves.levels(point.candidate),
        along=_along(problem, point, cost),
        moves=moves.of(point),
        details=details,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _to_dense(point: Point, dense: Point) -> Gap:
    return Gap(
        "the dense model",
        accuracy(point.score) - accuracy(dense.score),
        _error_of_difference(point, [(1.0, dense)]),
    )


def _error_of_difference(point: Point, others: Sequence[tuple[float, Point]]) -> float | None:
    """Return the standard error of a point's mAP less a weighted sum of others'.

    All are of the same resampled images: what every model finds hard cancels.
    """
    resampled = [point.score.resampled, *(other.score.resampled for _, other in others)]
    if len({len(values) for values in resampled}) > 1:
        return None
    weights = [1.0, *(-weight for weight, _ in others)]
    return _spread(np.asarray(weights) @ np.asarray(resampled))


def _spread(resampled: Sequence[float] | npt.NDArray[np.float64]) -> float | None:
    """Return the standard error of a figure from its bootstrap values; None if there are none."""
    return float(np.std(resampled, ddof=1)) if len(resampled) > 1 else None


def _to_stock(point: Point, dense: Sequence[Point], stock: Sequence[Any]) -> Gap | None:
    """Compare with what is to be had uncompressed at the point's latency."""
    best = to_beat(point, dense, stock)
    if best is None:
        return None
    published = [r for r in stock if r.map50_95 == best and r.latency_ms <= point.cost.latency_ms]
    if published:
        return Gap(published[0].name, accuracy(point.score) - best, None)
    slower = min(
        (p for p in dense if p.cost.latency_ms >= point.cost.latency_ms),
        key=lambda p: p.cost.latency_ms,
        default=max(dense, key=lambda p: p.cost.latency_ms),
    )
    faster = max(
        (p for p in dense if p.cost.latency_ms <= point.cost.latency_ms),
        key=lambda p: p.cost.latency_ms,
    )
    sizes = sorted({slower.candidate.imgsz, faster.candidate.imgsz})
    at = " and ".join(map(str, sizes))
    between = slower.cost.latency_ms - faster.cost.latency_ms
    share = (point.cost.latency_ms - faster.cost.latency_ms) / between if between > 0 else 0.0
    share = min(share, 1.0)
    return Gap(
        f"the dense model {'between ' if len(sizes) > 1 else 'at '}{at} px",
        accuracy(point.score) - best,
        _error_of_difference(point, [(1 - share, faster), (share, slower)]),
    )


def _along(problem: Problem, point: Point, cost: Cost) -> Along:
    layers = problem.space.workload(point.candidate).layers
    steps = problem.space.network.steps

    def along(values: Iterable[T], absent: T) -> tuple[T, ...]:
        """Return a value for each step of the dense model, given those of the point's layers."""
        known = dict(zip((layer.name for layer in layers), values, strict=True))
        return tuple(known.get(step.name, absent) for step in steps)

    def spent(field: str) -> tuple[float, ...]:
        """Return what each step costs, with the change of format behind it."""
        total = defaultdict[str, float](float)
        for layer in cost.per_layer:
            total[layer.name.removesuffix(CONVERSION)] += getattr(layer, field)
        return tuple(float(f"{total[step.name]:.4g}") for step in steps)

    patterns = dict(point.candidate.patterns)
    energies = spent("energy_mj")
    return Along(
        channels=along((layer.out_channels for layer in layers), 0),
        weight_bits=along((x.weight_bits if isinstance(x, ConvShape) else 0 for x in layers), 0),
        act_bits=along((layer.act_bits for layer in layers), 0),
        patterns=along((patterns.get(layer.name, "dense") for layer in layers), "dense"),
        latency_ms=spent("latency_ms"),
        energy_mj=None if any(map(math.isnan, energies)) else energies,
    )


def _steps(problem: Problem, dense: Point) -> tuple[Step, ...]:
    cost = problem.cost(dense.candidate)
    layers = problem.space.workload(dense.candidate).layers
    return tuple(
        Step(priced.name, priced.kind, layer.out_channels)
        for priced, layer in zip(cost.per_layer, layers, strict=True)
    )


def _explored(points: Sequence[Point]) -> Explored:
    return Explored(
        latency_ms=tuple(round(p.cost.latency_ms, 4) for p in points),
        energy_mj=tuple(_known(round(p.cost.energy_mj, 4)) for p in points),
        size_mb=tuple(round(p.cost.size_bytes / 1e6, 4) for p in points),
        map50_95=tuple(round(accuracy(p.score), 5) for p in points),
    )
