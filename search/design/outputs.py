"""What a study leaves: comparison.csv, tables on the terminal, and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from html import escape

from rich.table import Table

from search.design.carry_out import StudyFolder
from search.design.compare import Cell, Comparison, MethodRow, Rate
from search.report.page import compose
from search.run_folder import write_whole

LEVEL = 0.95  # of the best accuracy: what is less accurate does not do the same job


def write_comparison(folder: StudyFolder, comparison: Comparison) -> None:
    """Write comparison.csv and report.html."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Cell)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in asdict(cell).items()} for cell in comparison.cells)
    write_whole(folder.table, text.getvalue())
    sentences = "".join(f"<li>{escape(line)}</li>" for line in answers(comparison))
    write_whole(folder.report, compose("study", comparison.title, comparison, sentences))


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def answers(comparison: Comparison) -> Iterable[str]:
    """Say in one line for each frame rate which device and mode reaches it most accurately."""
    for fps in dict.fromkeys(rate.fps for rate in comparison.rates):
        rates = [rate for rate in comparison.rates if rate.fps == fps]
        able = [rate for rate in rates if rate.map50_95 is not None]
        if not able:
            fastest = max(rates, key=lambda rate: rate.fastest_fps or 0.0)
            nearest = (
                "no search found a point within its budgets"
                if fastest.fastest_fps is None
                else f"the nearest is {fastest.model} on {fastest.device} {fastest.power_mode} "
                f"with {fastest.fastest_fps:.0f} fps"
            )
            yield f"{fps:g} fps: out of reach; {nearest}"
            continue
        best = max(able, key=lambda rate: (_accuracy(rate), -_energy(rate)))
        yield f"{fps:g} fps most accurately: {_place(best)}"
        level = [rate for rate in able if _accuracy(rate) >= LEVEL * _accuracy(best)]
        thrifty = min(level, key=_energy)
        if thrifty.energy_mj is not None and thrifty is not best:
            yield (
                f"{fps:g} fps with least energy an image, within {1 - LEVEL:.0%} of that accuracy: "
                f"{_place(thrifty)}"
            )


def _accuracy(rate: Rate) -> float:
    return rate.map50_95 or 0.0


def _energy(rate: Rate) -> float:
    return math.inf if rate.energy_mj is None else rate.energy_mj


def _place(rate: Rate) -> str:
    energy = "" if rate.energy_mj is None else f" and {rate.energy_mj:.1f} mJ an image"
    unsure = "" if rate.sure else "; its 90 % interval reaches beyond, measure it"
    return (
        f"{rate.model} on {rate.device} {rate.power_mode}, mAP50-95 {rate.map50_95:.3f} at "
        f"{rate.latency_ms:.2f} ms{energy} predicted{unsure}"
    )


def tables(comparison: Comparison) -> Iterable[Table]:
    """Return the comparison as tables for the terminal."""
    yield _budget_table(comparison)
    yield _rate_table(comparison)
    if len({row.method for row in comparison.methods}) > 1:
        yield _method_table(comparison.methods)


def _budget_table(comparison: Comparison) -> Table:
    table = Table(title="Best point within each budget (latency and energy predicted)")
    for header in ("model", "device", "mode", "method", "seed", "budget"):
        table.add_column(header)
    for header in ("mAP50-95", "± s.e.", "to dense", "to stock", "ms", "mJ", "MB", "px"):
        table.add_column(header, justify="right")
    for c in comparison.cells:
        found = (
            ("", "", "", "none", "", "", "", "")
            if c.map50_95 is None
            else (
                f"{c.map50_95:.3f}", _text(c.error, ".3f"), _text(c.to_dense, "+.3f"),
                _text(c.to_stock, "+.3f"), _text(c.latency_ms, ".2f"), _text(c.energy_mj, ".1f"),
                _text(c.size_mb, ".2f"), str(c.imgsz),
            )
        )  # fmt: skip
        table.add_row(c.model, c.device, c.power_mode, c.method, str(c.seed), c.budget, *found)
    return table


def _rate_table(comparison: Comparison) -> Table:
    table = Table(title="Frame rates, one image at a time (predicted)")
    for header in ("model", "device", "mode"):
        table.add_column(header)
    for header in ("fps", "mAP50-95", "ms", "whole interval", "mJ an image", "W", "fastest fps"):
        table.add_column(header, justify="right")
    for r in comparison.rates:
        table.add_row(
            r.model, r.device, r.power_mode, f"{r.fps:g}",
            "out of reach" if r.map50_95 is None else f"{r.map50_95:.3f}",
            _text(r.latency_ms, ".2f"), "yes" if r.sure else "no",
            _text(r.energy_mj, ".1f"), _text(r.watts, ".2f"), _text(r.fastest_fps, ".0f") or "none",
        )  # fmt: skip
    return table


def _method_table(rows: Iterable[MethodRow]) -> Table:
    table = Table(title="Methods: mAP50-95 of the pick, mean and spread over seeds")
    for header in ("model", "device", "mode", "budget", "method", "seeds", "mean", "s.d."):
        table.add_column(header)
    for r in rows:
        table.add_row(
            r.model, r.device, r.power_mode, r.budget, r.method, str(r.seeds), f"{r.mean:.3f}",
            _text(r.spread, ".3f") or "one seed",
        )  # fmt: skip
    return table


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
