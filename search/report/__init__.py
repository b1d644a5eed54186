"""What a run looks like: report.html and front.png, both made of one value, `report.json`.

| module | what it knows |
| --- | --- |
| `value` | `Report`: everything that is shown |
| `collect` | from a problem and its result to that value; `moves`, `history`, `device_fit` and `examples` each know a part |
| `page` | report.html: the value, plotly.js and the files in `assets`, in one self-contained file |
| `picture` | front.png |
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from hw_models.errors import CorruptRunError, InputError
from search.front import Point
from search.outputs import Result
from search.problem import Problem
from search.report.collect import collect
from search.report.page import render_page
from search.report.picture import draw_front
from search.report.value import Report
from search.run_folder import RunFolder, write_whole

_ADAPTER = TypeAdapter(Report)


def write_report(
    run: RunFolder, problem: Problem, result: Result, explored: Sequence[Point]
) -> None:
    """Write report.json, and front.png and the self-contained report.html made of it."""
    report = collect(run, problem, result, explored)
    write_whole(run.report_data, _ADAPTER.dump_json(report).decode())
    _render(run, report)


def make_report(run: RunFolder) -> None:
    """Make front.png and report.html again from report.json alone.

    Raises:
        InputError: The run has no report.json.
        CorruptRunError: It cannot be read.
    """
    _render(run, read_report(run))


def read_report(run: RunFolder) -> Report:
    """Return what the page of a run shows.

    Raises:
        InputError: The run has no report.json.
        CorruptRunError: It cannot be read.
    """
    if not run.report_data.is_file():
        raise InputError(
            f"{run.path}: expected a finished or interrupted run, with a report.json in it.",
            f"Look at one that goes on with: paretrim watch {run.path}; or finish it with "
            f"--resume {run.path}.",
        )
    try:
        return _ADAPTER.validate_json(run.report_data.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptRunError(
            f"{run.report_data}: not the data of a report of this version ({reason}).",
            f"Make it again, without evaluating anything, with --resume {run.path}.",
        ) from error


def _render(run: RunFolder, report: Report) -> None:
    draw_front(run.picture, report)
    write_whole(run.report, render_page(report))
