"""The main job from the outside: real processes, real Ray, real model, real ONNX files.

A tiny data set keeps it short; figures are the demo's in small.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from search.front import non_dominated
from search.outputs import COLUMNS
from search.run_folder import RunFolder
from search.tracking.mirror import mirrored
from tests.search.conftest import answered
from tests.search.test_cli import ROOT, assert_one_paragraph

QUICK = ("--imgsz", "160", "--method", "nsga2", "--evals", "10", "--seed", "3")


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "front.csv").open() as file:
        return list(csv.DictReader(file))


def journal_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]


def start(run: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, ROOT / "search.py", *arguments]
    if "--resume" not in arguments:
        command += ["--project", run.parent, "--name", run.name]
    return subprocess.Popen(  # noqa: S603
        list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def searched(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the default method with two Ray actors on Xavier NX, where 8 bits pay."""
    run = tmp_path_factory.mktemp("runs") / "exp"
    arguments = ("--data", tiny_data, "--imgsz", "256,192", "--target", "jetson-xavier-nx")
    budgets = ("--latency", "90%,70%", "--evals", "40", "--actors", "2")
    return run, finish(start(run, *arguments, *budgets))


def test_the_run_folder_is_complete(searched: tuple[Path, str]) -> None:
    run, output = searched
    for name in ("study.yaml", "journal.jsonl", "front.csv", "picks.json", "log.txt"):
        assert (run / name).stat().st_size > 0
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (run / "report.html").read_text()
    assert str(run / "report.html") in output.replace("\n", "")
    assert {"settings", "resolved"} == set(yaml.safe_load((run / "study.yaml").read_text()))


def test_the_front_is_one(searched: tuple[Path, str]) -> None:
    rows = rows_of(searched[0])
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows].count("dense") == 1
    points = [row for row in rows if row["id"] != "dense"]
    assert len(points) >= 3
    F_NM = np.array([[-float(row["map50_95"]), float(row["latency_ms"])] for row in points])
    assert non_dominated(F_NM).all()
    for row in rows:
        assert (
            float(row["latency_low_ms"]) < float(row["latency_ms"]) < float(row["latency_high_ms"])
        )
        assert row["measured_ms"] == ""  # nothing was measured, so nothing is claimed


def test_every_pick_meets_its_budget_and_its_file_is_as_good(searched: tuple[Path, str]) -> None:
    run, _ = searched
    rows = {row["id"]: row for row in rows_of(run)}
    picks = json.loads((run / "picks.json").read_text())
    assert [pick["budget"] for pick in picks] == ["70%", "90%"]
    dense_ms = float(rows["dense"]["latency_ms"])
    for pick, share in zip(picks, (0.7, 0.9), strict=True):
        assert pick["latency_ms"] <= pick["budget_ms"] == pytest.approx(share * dense_ms, rel=1e-4)
        assert pick["measured_ms"] is None
        assert abs(pick["map50_95_exported"] - pick["map50_95"]) <= 0.01
        assert pick["budget"] in rows[pick["id"]]["meets"]
        recipe = json.loads((run / "models" / pick["id"] / "recipe.json").read_text())
        assert recipe["candidate"]["imgsz"] == pick["imgsz"]
        model = run / "models" / pick["id"] / "model.onnx"
        dense = run / "models" / "dense" / "model.onnx"
        assert model.stat().st_size <= dense.stat().st_size
    assert float(rows["dense"]["map50_95_exported"]) > 0.5


def test_nothing_was_evaluated_twice(searched: tuple[Path, str]) -> None:
    records = journal_of(searched[0])
    keys = [(record["digest"], record["rung"]) for record in records]
    assert len(set(keys)) == len(keys)
    assert len({record["where"] for record in records}) == 2  # both actors worked


def test_resuming_a_finished_run_on_another_machine_evaluates_nothing(
    searched: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = searched
    url = f"file://{tmp_path / 'mnt'}"
    with mirrored(RunFolder(run), url):
        pass
    there = tmp_path / "there" / run.name
    finish(start(run, "--resume", f"{url}/{run.name}", "--project", there.parent, "--actors", "0"))
    for name in ("journal.jsonl", "front.csv"):
        before = (run / name).read_bytes()
        assert (there / name).read_bytes() == before
        assert (tmp_path / "mnt" / run.name / name).read_bytes() == before


def test_another_device_repeats_no_evaluation(
    searched: tuple[Path, str], tiny_data: Path, tmp_path: Path
) -> None:
    run, _ = searched
    other = tmp_path / "exp"
    arguments = ("--data", tiny_data, "--imgsz", "256,192", "--target", "jetson-agx-xavier")
    budget = ("--latency", "80%", "--method", "milp", "--evals", "4", "--actors", "0")
    finish(start(other, *arguments, *budget, "--reuse", run))
    known = {(record["digest"], record["rung"]) for record in journal_of(run)}
    for record in journal_of(other):
        taken = record["where"] == str(run)
        assert taken == ((record["digest"], record["rung"]) in known)
    assert sum(record["where"] == str(run) for record in journal_of(other)) > 100  # the sweep


def test_killed_and_resumed_it_ends_with_the_same_front(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ("--data", tiny_data, "--latency", "80%", "--actors", "0", *QUICK)
    undisturbed = tmp_path / "undisturbed"
    finish(start(undisturbed, *arguments))
    lines = len((undisturbed / "journal.jsonl").read_text().splitlines())

    killed = tmp_path / "killed"
    process = start(killed, *arguments)
    moment = int(np.random.default_rng().integers(2, lines - 1))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (killed / "journal.jsonl").exists():
            written = (killed / "journal.jsonl").read_bytes()
            if written.count(b"\n") >= moment:
                break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = journal_of(killed)

    finish(start(killed, "--resume", killed))
    after = journal_of(killed)
    assert after[: len(before)] == before  # nothing lost
    keys = [(record["digest"], record["rung"]) for record in after]
    assert len(set(keys)) == len(keys)  # nothing repeated
    assert rows_of(killed) == rows_of(undisturbed), f"killed after {moment} of {lines} lines"


def test_sigterm_writes_the_front_so_far(tiny_data: Path, tmp_path: Path) -> None:
    run, mnt = tmp_path / "exp", tmp_path / "mnt"
    mirror = ("--mirror", f"file://{mnt}")
    arguments = ("--data", tiny_data, "--latency", "80%", "--imgsz", "160", "--method", "nsga2")
    process = start(run, *arguments, *mirror)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (run / "log.txt").exists() and " candidates; hypervolume" in (
            run / "log.txt"
        ).read_text():
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process, code=130)
    assert "interrupted" in output
    assert "heartbeat:" in output
    assert len(rows_of(run)) >= 2
    assert rows_of(mnt / run.name) == rows_of(run)
    assert journal_of(mnt / run.name) == journal_of(run)


def test_time_budget_ends_the_search_in_good_order(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "exp"
    arguments = ("--data", tiny_data, "--latency", "80%", "--actors", "0", *QUICK)
    output = finish(start(run, *arguments, "--time-budget", "1s"))
    assert "time budget spent" in output
    assert rows_of(run)[-1]["id"] == "dense"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"names": [f"c{number}" for number in range(11)]}, ["11", "10"]),
        ({"val": "images/none"}, ["images/none"]),
    ],
)
def test_bad_data_yaml(
    tiny_data: Path, tmp_path: Path, content: dict[str, object], words: list[str]
) -> None:
    # Beside the good one, so that its paths hold.
    path = tiny_data.with_name(f"bad-{'-'.join(content)}.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(tiny_data.read_text()), **content}))
    done = answered("search", "--latency", "30ms", "--data", path, cwd=tmp_path)
    assert_one_paragraph(done, 2, *words)


def test_unreadable_image(tiny_data: Path, tmp_path: Path) -> None:
    good = next((tiny_data.parent / "images" / "val").iterdir())
    folder = tmp_path / "images" / "val"
    folder.mkdir(parents=True)
    (folder / "cut.png").write_bytes(good.read_bytes()[:500])
    content = yaml.safe_load(tiny_data.read_text())
    path = tmp_path / "cut.yaml"
    path.write_text(yaml.safe_dump({**content, "train": "images/val"}))
    done = answered("search", "--latency", "30ms", "--data", path, cwd=tmp_path)
    assert_one_paragraph(done, 2, "cut.png")
