"""What a run looks like: front.png (`picture`) and report.html (`page`)."""

from __future__ import annotations

from collections.abc import Sequence

from search.front import Point
from search.outputs import Result
from search.problem import Problem
from search.report.page import render_page
from search.report.picture import draw_front
from search.run_folder import RunFolder, write_whole


def write_report(
    run: RunFolder, problem: Problem, result: Result, explored: Sequence[Point]
) -> None:
    """Write front.png and the self-contained report.html."""
    draw_front(run.picture, problem, result, explored)
    write_whole(run.report, render_page(run.picture.read_bytes(), problem, result))
