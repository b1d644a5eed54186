"""A study from the command line, with real evaluations: two power modes share all of them, and so
do two models of the same weights."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.search.test_cli import ROOT

MATRIX = """
models:
  dense: {{data: {data}, imgsz: [128], bits: [0], prune: none}}
  input varies: {{data: {data}, imgsz: [128, 96], bits: [0], prune: none}}
devices:
  jetson-tx2: [MAXN, MAXQ]
budgets: [100%, 1us]
methods: [uniform]
options: {{actors: 0}}
"""


def study(file: Path, project: Path) -> str:
    program = (sys.executable, "-c", "from search.cli import main; main()")
    command = [*program, "study", file, "--project", project]
    done = subprocess.run(  # noqa: S603
        list(map(str, command)), text=True, capture_output=True, timeout=400, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_searches_share_evaluations_and_a_second_call_does_nothing(
    tiny_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX.format(data=tiny_data))
    output = study(file, tmp_path)
    assert "made twice" in output
    with (tmp_path / "matrix" / "comparison.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["budget"] for row in rows] == ["100%", "1us"] * 4
    assert rows[0]["map50_95"] == rows[2]["map50_95"] != ""
    assert float(rows[0]["latency_ms"]) < float(rows[2]["latency_ms"])
    assert "No candidate can meet" in rows[1]["refused"]
    assert " 0 made twice" in output
    runs = sorted((tmp_path / "matrix" / "runs").iterdir())
    journals = [(run / "journal.jsonl").read_text() for run in runs]
    assert all(str(runs[0]) in journal for journal in journals[1:])  # taken over, not evaluated
    again = study(file, tmp_path)
    assert [(run / "journal.jsonl").read_text() for run in runs] == journals
    assert "4 searches" in again
