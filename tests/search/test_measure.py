"""Picks measured on a real worker over TCP, from the outside."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hw_models.errors import InfeasibleError
from hw_models.measurement import Conditions, Measurement, MeasureProtocol
from hw_models.pool import Rules
from search import measure
from search.outputs import COLUMNS
from search.run import new_search, resume_search
from tests.search.test_cli import ROOT, assert_one_paragraph, search

WORKER = ROOT / "hw_models" / "worker"
# Any profile with an FP32 baseline serves: predictions are corrected by what is measured.
TARGET = "jetson-nano-yolobench"


@pytest.fixture(autouse=True, scope="module")
def tolerant() -> Iterator[None]:
    """Machines that run tests are busy. And a search sets handlers of its own, in its process."""
    handlers, level, terminate = logging.root.handlers, logging.root.level, signal.SIGTERM
    handler = signal.getsignal(terminate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "RULES", Rules(drift=1e3, noise=1e3))
        patch.setattr(measure, "STEADY", 1e3)
        yield
    logging.root.handlers = handlers
    logging.root.setLevel(level)
    signal.signal(terminate, handler)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker: ONNX Runtime, one thread, a token."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "token").write_text("secret" * 8)
    (folder / "token").chmod(0o600)
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "paretrim_worker", "--listen", "127.0.0.1:0", "--insecure"),
            *("--runtime", "onnxruntime", "--processor", "cpu", "--threads", "1"),
            *("--token-file", str(folder / "token")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(WORKER), "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    yield f"{process.stdout.readline().split()[-1]} {folder / 'token'}"
    process.terminate()
    process.communicate(timeout=60)


def given(worker: str, data: Path, **options: object) -> dict[str, Any]:
    address, token = worker.split()
    device = {"measure_on": (address,), "token_file": token}
    return {"data": str(data), "target": TARGET, "actors": 0, **device, **options}


def test_a_measurements_record_is_json() -> None:
    measurement = Measurement(
        latency_ms=2.0,
        samples=(1.0, 2.0, 4.0),
        energy_mj=12.5,
        device="board",
        power_mode="MAXN",
        protocol=MeasureProtocol(repeat=3),
        temperature=47.5,
        model_digest="0" * 64,
        idle_before_mw=1500.0,
        before=Conditions({"cpu0": 2035.2}, {"GPU-therm": 41.0}),
        after=Conditions({"cpu0": 1881.6}, {"GPU-therm": 47.5}),
    )
    record = json.loads(json.dumps(measure._record(measurement)))
    assert record["before"]["clocks_mhz"] == {"cpu0": 2035.2}
    assert record["after"]["temperatures_c"] == {"GPU-therm": 47.5}
    assert (record["idle_before_mw"], record["idle_after_mw"]) == (1500.0, None)


@pytest.fixture(scope="module")
def measured(
    worker: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A short search whose picks were measured."""
    run = tmp_path_factory.mktemp("runs") / "exp"
    output = io.StringIO()
    asked = given(
        worker, tiny_data, imgsz=(256, 128), latency=("95%", "75%"), method="nsga2", evals=6
    )
    new_search(asked, run.parent, run.name, False, Console(file=output, width=200))
    return run, output.getvalue()


def measurements(run: Path) -> list[dict[str, object]]:
    lines = (run / "journal.jsonl").read_text().splitlines()
    return [record for line in lines if "measured" in (record := json.loads(line))]


def test_every_pick_was_measured_within_its_budget(measured: tuple[Path, str]) -> None:
    run, output = measured
    with (run / "front.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert tuple(next(iter(rows.values()))) == COLUMNS
    picks = json.loads((run / "picks.json").read_text())
    assert [pick["budget"] for pick in picks] == ["75%", "95%"]
    dense_ms = float(rows["dense"]["measured_ms"])
    assert float(rows["dense"]["latency_ms"]) == pytest.approx(dense_ms, rel=1e-4)  # corrected
    for pick, share in zip(picks, (0.75, 0.95), strict=True):
        assert pick["measured_ms"] <= pick["budget_ms"] == pytest.approx(share * dense_ms, rel=1e-4)
        assert pick["measured_spread_ms"] >= 0
        assert float(rows[pick["id"]]["measured_ms"]) == pytest.approx(pick["measured_ms"], 1e-4)
        assert pick["budget"] in rows[pick["id"]]["meets"]
        recipe = json.loads((run / "models" / pick["id"] / "recipe.json").read_text())
        assert recipe["measured"]["latency_ms"] == pick["measured_ms"]
    assert " ms measured (" in output.replace("\n", " ")
    assert "measured" in (run / "report.html").read_text()


def test_what_was_not_measured_is_not_said_to_meet_a_budget(measured: tuple[Path, str]) -> None:
    with (measured[0] / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["measured_ms"] or not row["meets"]


def test_the_delivered_file_is_the_measured_one(measured: tuple[Path, str]) -> None:
    run, _ = measured
    for pick in json.loads((run / "picks.json").read_text()):
        recipe = json.loads((run / "models" / pick["id"] / "recipe.json").read_text())
        model = (run / "models" / pick["id"] / "model.onnx").read_bytes()
        assert hashlib.sha256(model).hexdigest() == recipe["measured"]["model_digest"]


def test_resuming_repeats_no_measurement(measured: tuple[Path, str]) -> None:
    run, _ = measured
    before = (run / "journal.jsonl").read_text(), (run / "picks.json").read_text()
    resume_search(str(run), run.parent, {}, Console(file=io.StringIO()))
    assert ((run / "journal.jsonl").read_text(), (run / "picks.json").read_text()) == before
    digests = [record["digest"] for record in measurements(run)]
    assert len(set(digests)) == len(digests) >= 3  # dense and two picks


def test_a_budget_that_no_candidate_was_measured_within(
    worker: str, tiny_data: Path, tmp_path: Path
) -> None:
    asked = given(worker, tiny_data, imgsz=(128,), latency=("1us",), evals=2)
    with pytest.raises(InfeasibleError, match="lowest measured latency is"):
        new_search(asked, tmp_path, "exp", False, Console(file=io.StringIO()))


def test_device_trouble_has_its_exit_code(worker: str, tiny_data: Path, tmp_path: Path) -> None:
    address, _ = worker.split()
    done = search(
        "--data", tiny_data, "--imgsz", "128", "--target", TARGET, "--latency", "90%",
        "--actors", "0", "--measure-on", address, "--project", tmp_path,
    )  # fmt: skip
    assert_one_paragraph(done, 4, address, "UNAUTHENTICATED")
