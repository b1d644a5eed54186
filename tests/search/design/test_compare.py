"""Comparisons of real run folders; their evaluations are a formula's."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search.design.carry_out import StudyFolder, is_done
from search.design.compare import Comparison, compare
from search.design.outputs import answers, tables, write_comparison
from search.design.plan import Job, Plan
from tests.search.report.browser import CHROMIUM, Page, chromium
from tests.search.report.conftest import Searched

BUDGETS = ("100%", "99s")


@pytest.fixture(scope="module")
def study(
    run_toy: Callable[..., Searched], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, StudyFolder]:
    """Two methods, of one of them two seeds; one more search that was never run."""
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    jobs = []
    for method, seed in (("milp", 0), ("random", 0), ("random", 1)):
        name = f"toy-jetson_xavier_nx-15W-{method}-s{seed}"
        job = Job(name, "toy", "jetson-xavier-nx", "15W", method, seed, BUDGETS, {})
        searched = run_toy(method=method, seed=seed, latency=BUDGETS)
        shutil.copytree(searched.run.path, folder.run(job).path)
        jobs.append(job)
    jobs.append(replace(jobs[0], name="not-run", seed=7))
    jobs.append(replace(jobs[0], name="impossible", device="jetson-nano", budgets=("1us",)))
    folder.refusal(jobs[-1]).parent.mkdir()
    folder.refusal(jobs[-1]).write_text(json.dumps({"1us": "No candidate can meet it."}))
    return Plan("toys", tuple(jobs), (30.0, 1e6)), folder


@pytest.fixture(scope="module")
def comparison(study: tuple[Plan, StudyFolder]) -> Comparison:
    return compare(*study)


def test_every_search_and_budget_has_a_row(
    study: tuple[Plan, StudyFolder], comparison: Comparison
) -> None:
    plan, folder = study
    assert [is_done(job, folder) for job in plan.jobs] == [True, True, True, False, True]
    assert comparison.missing == 1
    assert len(comparison.cells) == 3 * 2 + 1
    for cell in comparison.cells[:-1]:
        run = folder.path / cell.run
        picks = {p["budget"]: p for p in json.loads((run / "picks.json").read_text())}
        if cell.id is not None:
            assert picks[cell.budget]["id"] == cell.id
            assert picks[cell.budget]["map50_95"] == cell.map50_95
    assert comparison.cells[-1].refused == "No candidate can meet it."
    assert comparison.cells[-1].map50_95 is None


def test_an_interrupted_search_is_not_done(study: tuple[Plan, StudyFolder], tmp_path: Path) -> None:
    """Whatever lies there: models may be those of an earlier call with fewer evaluations."""
    (job, *_), found = study[0].jobs, StudyFolder(tmp_path)
    shutil.copytree(study[1].run(job).path, found.run(job).path)
    (found.run(job).path / "models" / "dense").mkdir(parents=True)
    assert is_done(job, found)
    report = json.loads(found.run(job).report_data.read_text())
    found.run(job).report_data.write_text(json.dumps(report | {"complete": False}))
    assert not is_done(job, found)


def test_frame_rates_take_the_best_of_all_searches(comparison: Comparison) -> None:
    slow, fast, *_ = comparison.rates
    assert slow.map50_95 == max(max(curve.map50_95) for curve in comparison.curves)
    assert slow.sure
    assert slow.watts == pytest.approx(slow.energy_mj * 30 / 1000)
    assert fast.map50_95 is None
    assert fast.fastest_fps == pytest.approx(
        1000 / min(min(curve.latency_ms) for curve in comparison.curves)
    )
    lines = list(answers(comparison))
    assert lines[0].startswith("30 fps most accurately: toy on jetson-xavier-nx 15W")
    assert lines[-1].startswith("1e+06 fps: out of reach; the nearest is toy")


def test_least_energy_is_asked_of_those_that_do_the_same_job(comparison: Comparison) -> None:
    (rate, *_) = comparison.rates
    places = (
        ("best", 0.70, 50.0),
        ("level", 0.69, 40.0),
        ("broken", 0.1, 10.0),
        ("tie", 0.7, 60.0),
    )
    rates = tuple(
        replace(rate, model=model, map50_95=accuracy, energy_mj=energy)
        for model, accuracy, energy in reversed(places)
    )
    most, least = answers(replace(comparison, rates=rates))
    assert most.startswith("30 fps most accurately: best on")
    assert least.startswith(
        "30 fps with least energy an image, within 5% of that accuracy: level on"
    )


def test_a_device_whose_budgets_are_all_out_of_reach_has_its_rows(
    study: tuple[Plan, StudyFolder], comparison: Comparison
) -> None:
    rows = [rate for rate in comparison.rates if rate.device == "jetson-nano"]
    assert [(row.fps, row.map50_95, row.fastest_fps) for row in rows] == [
        (30.0, None, None), (1e6, None, None)
    ]  # fmt: skip
    plan, folder = study
    alone = compare(replace(plan, jobs=plan.jobs[-1:]), folder)
    assert next(iter(answers(alone))) == (
        "30 fps: out of reach; no search found a point within its budgets"
    )
    assert list(tables(alone))


def test_a_tenth_of_a_budget_by_hand(comparison: Comparison) -> None:
    marginal = next(m for m in comparison.marginals if m.budget == "100%")
    points = [p for c in comparison.curves for p in zip(c.latency_ms, c.map50_95, strict=True)]
    best, tighter = (
        max(y for x, y in points if x <= share * marginal.budget_ms) for share in (1.0, 0.9)
    )
    assert marginal.gained == pytest.approx(best - tighter)
    assert marginal.per_ms == pytest.approx((best - tighter) / (0.1 * marginal.budget_ms))


def test_methods_have_a_spread_only_over_seeds(comparison: Comparison) -> None:
    rows = {(row.method, row.budget): row for row in comparison.methods}
    assert rows["random", "99s"].seeds == 2
    assert rows["random", "99s"].spread is not None
    assert rows["milp", "99s"].seeds == 1
    assert rows["milp", "99s"].spread is None


def test_what_was_made_twice_is_counted(comparison: Comparison) -> None:
    # These runs did not look into each other: at least the dense model was scored by each.
    assert comparison.twice >= 4
    assert sum(effort.reused for effort in comparison.efforts) == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def test_files_and_tables(study: tuple[Plan, StudyFolder], comparison: Comparison) -> None:
    _, folder = study
    write_comparison(folder, comparison)
    with folder.table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(comparison.cells)
    assert rows[-1]["map50_95"] == ""
    console = Console(width=150, record=True)
    for table in tables(comparison):
        console.print(table)
    text = console.export_text()
    assert "out of reach" in text
    assert "one seed" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_draws(
    page: Page, study: tuple[Plan, StudyFolder], comparison: Comparison, width: int
) -> None:
    _, folder = study
    write_comparison(folder, comparison)
    page.open(folder.report, width)
    assert page.complaints == []
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js("document.querySelectorAll('.plot .main-svg').length") >= 2
    assert Path(folder.report).stat().st_size < 6e6
