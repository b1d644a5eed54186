from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hw_models.errors import CorruptRunError, InputError
from search.front import hypervolume
from search.outputs import beats_stock
from search.problem import accuracy
from search.report import make_report, read_report
from search.report.value import Report
from search.run_folder import RunFolder
from tests.search.report.conftest import Searched


@pytest.fixture(scope="module")
def report(searched: Searched) -> Report:
    return read_report(searched.run)


def test_the_page_is_made_again_from_the_folder_alone(searched: Searched, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "elsewhere")
    copy.path.mkdir()
    shutil.copy(searched.run.report_data, copy.report_data)
    make_report(copy)
    assert copy.report.read_bytes() == searched.run.report.read_bytes()
    assert copy.picture.read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_elsewhere_and_stays_small(searched: Searched) -> None:
    page = searched.run.report.read_text(encoding="utf-8")
    assert len(page.encode()) < 6e6
    head = page.partition('<script type="text/plain"')[0]
    assert "src=" not in head
    assert "@import" not in head
    assert "<link" not in head.replace('<link rel="icon" href="data:,">', "")


def test_points_are_those_of_the_run(searched: Searched, report: Report) -> None:
    assert [p.id for p in report.points] == [p.id for p in searched.result.front]
    assert report.dense[0].id == "dense"
    assert report.dense[0].to_dense is None
    for view, point in zip(report.points, searched.result.front, strict=True):
        assert view.latency_ms == point.cost.latency_ms
        assert view.map50_95 == accuracy(point.score)
        assert sum(view.along.latency_ms) < view.latency_ms  # the rest is the inference as a whole
        assert sum(view.along.latency_ms) > 0.7 * view.latency_ms
        beats = beats_stock(point, searched.result.dense)
        assert (view.to_stock is None) == (beats is None)
        if view.to_stock is not None:
            assert (view.to_stock.map50_95 > 0) == beats


def test_errors_of_differences_are_paired(searched: Searched, report: Report) -> None:
    view, point = report.points[0], searched.result.front[0]
    assert view.error == pytest.approx(np.std(point.score.resampled, ddof=1))
    assert view.error > 0
    # Both have the same hard groups here, so nothing is left of them in the difference.
    assert view.to_dense.error == pytest.approx(0.0, abs=1e-9)


def test_moves_are_what_the_cost_model_says(searched: Searched, report: Report) -> None:
    problem, view = searched.problem, report.points[len(report.points) // 2]
    move = next(m for m in view.moves if m.latency_ms < 0 and m.map50_95 is not None)
    levels = np.array(view.level)
    levels[move.variable] = move.level
    cost = problem.cost(problem.space.decode(levels))
    assert cost.latency_ms - view.latency_ms == pytest.approx(move.latency_ms, rel=1e-3, abs=1e-6)
    steps = {(m.variable, m.level - view.level[m.variable]) for m in view.moves}
    assert all(by in (-1, 1) for _, by in steps)
    expected = sum(
        int(level > 0) + int(level < upper)
        for level, upper in zip(view.level, problem.space.upper, strict=True)
    )
    assert len(view.moves) == expected


def test_sensitivities_come_from_the_journal(report: Report) -> None:
    losses = {v.name: v.losses for v in report.variables}
    assert losses.pop("imgsz") is None
    for values in losses.values():
        assert values is not None
        assert values[0] == 0
        assert all(0 <= value <= 1 for value in values)
    assert any(max(values) > 0.01 for values in losses.values())


def test_history_is_that_of_the_journal(searched: Searched, report: Report) -> None:
    lines = searched.run.journal.read_text().splitlines()[1:]
    rungs = [json.loads(line)["rung"] for line in lines]
    assert report.history.rungs == {r: rungs.count(r) for r in ("proxy", "subset", "full")}
    assert list(report.history.hypervolume) == sorted(report.history.hypervolume)
    problem = searched.problem
    F_NM = np.array([problem.objectives(p.cost, p.score) for p in searched.points])
    dense = problem.cost(problem.dense())
    reference = np.array(problem.objectives_of(0.0, dense.latency_ms, dense.energy_mj, 0.0))
    assert report.history.hypervolume[-1] == pytest.approx(hypervolume(F_NM, reference), abs=1e-4)
    assert report.history.reused == 0


def test_the_hardware_model_says_what_was_fitted(report: Report) -> None:
    rows = {row.precision: row for row in report.device.rows}
    assert rows["fp16"].fitted is not None
    assert rows["fp16"].left_out is not None
    assert rows["fp16"].held_out is None  # the shipped profiles keep no such figure
    assert report.device.intervals["16"] > 1
    assert all(ratio > 0 for ratio in report.device.networks.values())


def test_examples_are_pictures_with_their_truth(searched: Searched, report: Report) -> None:
    assert len(report.examples) == 6
    for example in report.examples:
        assert max(example.width, example.height) <= 400
        for x1, y1, x2, y2, _, label in example.truth:
            assert 0 <= x1 < x2 <= 1.001
            assert 0 <= y1 < y2 <= 1.001
            assert label < len(report.classes)


def test_a_method_without_a_sweep_has_no_map(run_toy: Callable[..., Searched]) -> None:
    searched = run_toy(method="random", measured=True)
    report = read_report(searched.run)
    assert all(variable.losses is None for variable in report.variables)
    moves = [m for p in report.points for m in p.moves]
    assert all(m.map50_95 is None for m in moves if report.variables[m.variable].name != "imgsz")
    assert report.points[0].measured is not None
    assert report.points[0].measured.device == "orin-7"


def test_no_run_and_another_versions_run_are_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"report\.json"):
        make_report(run)
    run.report_data.write_text('{"title": "old"}')
    with pytest.raises(CorruptRunError, match="not the data of a report"):
        make_report(run)


def test_nothing_is_not_a_number(searched: Searched) -> None:
    def no_constant(name: str) -> float:
        raise AssertionError(name)

    content = json.loads(searched.run.report_data.read_text(), parse_constant=no_constant)
    assert math.isfinite(content["points"][0]["latency_ms"])
