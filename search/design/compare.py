"""From the reports of a study's searches to one comparison."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from search.design.carry_out import StudyFolder, is_done
from search.design.plan import Job, Plan
from search.journal import read_entries, read_protocol
from search.report import read_report
from search.report.value import PointView, Report

TIGHTER = 0.9  # share of a budget to compare with, for what its last milliseconds bring


@dataclass(frozen=True, slots=True)
class Cell:
    """The best point of one search within one budget.

    Attributes:
        model: Name in the study.
        device: Profile.
        power_mode: Mode.
        method: Search method.
        seed: Of the search.
        budget: As written.
        budget_ms: In ms; None where it was refused as a whole.
        id: Of the point; None if there is none.
        map50_95: Its accuracy.
        error: Standard error of it, if known.
        to_dense: Difference to the dense model at its largest input size.
        to_stock: Difference to the best uncompressed model as fast.
        latency_ms: Predicted.
        low_ms: Of the 90 % interval.
        high_ms: Likewise.
        measured_ms: If a device measured it.
        energy_mj: Predicted, if known.
        size_mb: Weights.
        imgsz: Input size.
        refused: Why there is no such point.
        run: Folder of the search, from the study's.
    """

    model: str
    device: str
    power_mode: str
    method: str
    seed: int
    budget: str
    budget_ms: float | None
    id: str | None
    map50_95: float | None
    error: float | None
    to_dense: float | None
    to_stock: float | None
    latency_ms: float | None
    low_ms: float | None
    high_ms: float | None
    measured_ms: float | None
    energy_mj: float | None
    size_mb: float | None
    imgsz: int | None
    refused: str
    run: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The front of one search, fastest first, and the dense model's at the same place."""

    model: str
    device: str
    power_mode: str
    method: str
    seed: int
    latency_ms: tuple[float, ...]
    map50_95: tuple[float, ...]
    energy_mj: tuple[float | None, ...]
    dense_latency_ms: tuple[float, ...]
    dense_map50_95: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """The most accurate point of a model, device and mode at one frame rate, of all searches.

    Attributes:
        model: Name in the study.
        device: Profile.
        power_mode: Mode.
        fps: Frames a second asked for, one image at a time.
        map50_95: Of that point; None if nothing is fast enough.
        latency_ms: Predicted.
        sure: Whether the whole 90 % interval is fast enough.
        energy_mj: Per image, if known.
        watts: Energy times frame rate, idle time between images left out.
        fastest_fps: What the fastest point of the front would do; None if there is no front,
            because all budgets are out of reach.
    """

    model: str
    device: str
    power_mode: str
    fps: float
    map50_95: float | None
    latency_ms: float | None
    sure: bool
    energy_mj: float | None
    watts: float | None
    fastest_fps: float | None


@dataclass(frozen=True, slots=True)
class Marginal:
    """What the last tenth of a budget brings, on the best front of all searches."""

    model: str
    device: str
    power_mode: str
    budget: str
    budget_ms: float
    map50_95: float
    gained: float
    per_ms: float


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method within one budget, over its seeds."""

    model: str
    device: str
    power_mode: str
    budget: str
    method: str
    seeds: int
    mean: float
    spread: float | None


@dataclass(frozen=True, slots=True)
class Effort:
    """What one search took."""

    run: str
    scored: int
    evaluated: int
    reused: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a study found.

    Attributes:
        title: Name of the study.
        created: Date and time, UTC.
        missing: Searches that are not done yet.
        cells: One a search and budget.
        curves: One a search.
        rates: One a model, device, mode and frame rate.
        marginals: One a model, device, mode and budget.
        methods: One a model, device, mode, budget and method.
        efforts: One a search.
        twice: Evaluations that were made more than once in the whole study.
    """

    title: str
    created: str
    missing: int
    cells: tuple[Cell, ...]
    curves: tuple[Curve, ...]
    rates: tuple[Rate, ...]
    marginals: tuple[Marginal, ...]
    methods: tuple[MethodRow, ...]
    efforts: tuple[Effort, ...]
    twice: int


def compare(plan: Plan, folder: StudyFolder) -> Comparison:
    """Compare the searches that are done."""
    done = [job for job in plan.jobs if is_done(job, folder)]
    reports = {
        job.name: read_report(folder.run(job)) for job in done if folder.run(job).path.is_dir()
    }
    found = [(job, reports[job.name]) for job in done if job.name in reports]
    cells = [cell for job in done for cell in _cells(job, folder, reports.get(job.name))]
    return Comparison(
        title=plan.name,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        missing=len(plan.jobs) - len(done),
        cells=tuple(cells),
        curves=tuple(_curve(job, report) for job, report in found),
        rates=tuple(_rates(done, found, plan.fps)),
        marginals=tuple(_marginals(found)),
        methods=tuple(_methods(cells)),
        efforts=tuple(_effort(job, folder) for job, _ in found),
        twice=_twice([folder.run(job).journal for job, _ in found]),
    )


def _cells(job: Job, folder: StudyFolder, report: Report | None) -> Iterable[Cell]:
    refused = folder.refused(job)
    verdicts = {} if report is None else {v.budget: v for v in report.verdicts}
    for budget in job.budgets:
        verdict = verdicts.get(budget)
        point = None
        if report is not None and verdict is not None and verdict.pick is not None:
            point = next(p for p in report.points if p.id == verdict.pick)
        unmet = verdict.sentence.removeprefix(f"{budget}: ") if verdict and point is None else ""
        reason = refused.get(budget, unmet)
        place = (job.model, job.device, job.power_mode, job.method, job.seed, budget)
        budget_ms = None if verdict is None else verdict.budget_ms
        yield Cell(*place, budget_ms, **_figures(point), refused=reason, run=f"runs/{job.name}")


def _figures(point: PointView | None) -> dict[str, Any]:
    names = (
        "id", "map50_95", "error", "to_dense", "to_stock", "latency_ms", "low_ms", "high_ms",
        "measured_ms", "energy_mj", "size_mb", "imgsz",
    )  # fmt: skip
    if point is None:
        return dict.fromkeys(names)
    named = {
        "to_dense": None if point.to_dense is None else point.to_dense.map50_95,
        "to_stock": None if point.to_stock is None else point.to_stock.map50_95,
        "measured_ms": None if point.measured is None else point.measured.latency_ms,
    }
    return {name: named[name] if name in named else getattr(point, name) for name in names}


def _curve(job: Job, report: Report) -> Curve:
    dense = sorted(report.dense, key=lambda p: p.latency_ms)
    return Curve(
        job.model,
        job.device,
        job.power_mode,
        job.method,
        job.seed,
        tuple(p.latency_ms for p in report.points),
        tuple(p.map50_95 for p in report.points),
        tuple(p.energy_mj for p in report.points),
        tuple(p.latency_ms for p in dense),
        tuple(p.map50_95 for p in dense),
    )


def _places(
    found: Sequence[tuple[Job, Report]],
) -> Iterable[tuple[tuple[str, str, str], list[Report]]]:
    """Yield the reports of each model, device and mode, whatever the method and seed."""
    by_place: dict[tuple[str, str, str], list[Report]] = defaultdict(list)
    for job, report in found:
        by_place[job.model, job.device, job.power_mode].append(report)
    return by_place.items()


def _best(reports: Sequence[Report], latency_ms: float) -> PointView | None:
    within = [p for r in reports for p in r.points if p.latency_ms <= latency_ms]
    return max(within, key=lambda p: (p.map50_95, -p.latency_ms), default=None)


def _rates(
    done: Sequence[Job], found: Sequence[tuple[Job, Report]], fps: Sequence[float]
) -> Iterable[Rate]:
    places = dict(_places(found))
    for place in dict.fromkeys((job.model, job.device, job.power_mode) for job in done):
        reports = places.get(place)
        if reports is None:
            yield from (Rate(*place, rate, None, None, False, None, None, None) for rate in fps)
            continue
        fastest = 1e3 / min(p.latency_ms for r in reports for p in r.points)
        for rate in fps:
            point = _best(reports, 1e3 / rate)
            if point is None:
                yield Rate(*place, rate, None, None, False, None, None, fastest)
                continue
            energy = point.energy_mj
            yield Rate(
                *place,
                rate,
                point.map50_95,
                point.latency_ms,
                point.high_ms <= 1e3 / rate,
                energy,
                None if energy is None else energy * rate / 1e3,
                fastest,
            )


def _marginals(found: Sequence[tuple[Job, Report]]) -> Iterable[Marginal]:
    for place, reports in _places(found):
        for verdict in reports[0].verdicts:
            best = _best(reports, verdict.budget_ms)
            tighter = _best(reports, TIGHTER * verdict.budget_ms)
            if best is None or tighter is None:
                continue
            gained = best.map50_95 - tighter.map50_95
            per_ms = gained / ((1 - TIGHTER) * verdict.budget_ms)
            yield Marginal(*place, verdict.budget, verdict.budget_ms, best.map50_95, gained, per_ms)


def _methods(cells: Sequence[Cell]) -> Iterable[MethodRow]:
    def place(cell: Cell) -> tuple[str, str, str, str, str]:
        return cell.model, cell.device, cell.power_mode, cell.budget, cell.method

    known = sorted((c for c in cells if c.map50_95 is not None), key=place)
    for key, group in groupby(known, key=place):
        values = [cell.map50_95 for cell in group if cell.map50_95 is not None]
        spread = statistics.stdev(values) if len(values) > 1 else None
        yield MethodRow(*key, len(values), statistics.fmean(values), spread)


def _effort(job: Job, folder: StudyFolder) -> Effort:
    entries = list(read_entries(folder.run(job).journal))
    own = [entry for entry in entries if not entry.is_reused]
    return Effort(
        job.name,
        sum(entry.rung == "subset" for entry in entries),
        len(own),
        len(entries) - len(own),
        math.fsum(entry.seconds for entry in own),
    )


def _twice(journals: Sequence[Path]) -> int:
    """Count the evaluations that were made again although a journal of equal protocol knew them."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for journal in journals:
        protocol = read_protocol(journal)
        for entry in read_entries(journal):
            if not entry.is_reused:
                counts[protocol, entry.digest, entry.rung] += 1
    return sum(count - 1 for count in counts.values())
