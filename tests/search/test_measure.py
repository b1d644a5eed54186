"""Picks measured on a real worker over TCP, from the outside."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hw_models.client import DeviceClient
from hw_models.errors import DeviceError, InfeasibleError
from hw_models.measurement import Conditions, DeviceCallError, Measurement, MeasureProtocol
from hw_models.member import Rules
from search import measure
from search.finished import read_finished
from search.outputs import COLUMNS
from search.recover.command import recover
from search.recover.wish import Wish
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


def start_worker(
    folder: Path, *options: str, listen: str = "127.0.0.1:0"
) -> tuple[subprocess.Popen[str], str]:
    """A worker and its address: ONNX Runtime, one thread."""
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "paretrim_worker", "--listen", listen, "--insecure"),
            *("--runtime", "onnxruntime", "--processor", "cpu", "--threads", "1", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(WORKER), "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker with a token, and the token's file."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "token").write_text("secret" * 8)
    (folder / "token").chmod(0o600)
    process, address = start_worker(folder, "--token-file", str(folder / "token"))
    yield f"{address} {folder / 'token'}"
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


def rows_of(run: Path) -> dict[str, dict[str, str]]:
    with (run / "front.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def measurements(run: Path) -> list[dict[str, Any]]:
    lines = (run / "journal.jsonl").read_text().splitlines()
    return [record for line in lines if "measured" in (record := json.loads(line))]


def test_every_pick_was_measured_within_its_budget(measured: tuple[Path, str]) -> None:
    run, output = measured
    rows = rows_of(run)
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


def test_recovered_files_are_measured_beside_those_of_the_search(
    measured: tuple[Path, str], worker: str, tmp_path: Path
) -> None:
    """First the device cannot be reached: what was trained stays, and the same command goes on.

    Recovered is the least accurate point, the small input: an epoch makes it more accurate, so it
    stays on the front. Of a pick, that depends on which point was measured within its budget.
    """
    run, address = tmp_path / "exp", worker.split()[0]
    shutil.copytree(measured[0], run)
    before = rows_of(run)
    rows = [row for name, row in before.items() if name != "dense"]
    pick = min(rows, key=lambda row: float(row["map50_95"]))["id"]  # what training improves
    wish, name, quiet = Wish((pick,), trials=1, epochs=1), f"{pick}r", Console(quiet=True)
    study = (run / "study.yaml").read_text()
    (run / "study.yaml").write_text(study.replace(address, "127.0.0.1:1"))
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:1"):
        recover(run, wish, quiet)
    assert f"{name}: trained and kept, but not all measured" in (run / "log.txt").read_text()
    finished = read_finished(run)
    (point,) = finished.recovered
    assert finished.merged.time(point) is None

    (run / "study.yaml").write_text(study)
    recover(run, wish, quiet)
    assert "going on with the trials" in (run / "log.txt").read_text()
    timed = read_finished(run).merged.time(point)
    assert timed is not None
    model = (run / "models" / name / "model.onnx").read_bytes()
    assert timed.model_digest == hashlib.sha256(model).hexdigest()
    assert timed.model_digest != finished.merged.measured[point.candidate.digest].model_digest
    assert len(model) / 1e6 == pytest.approx(float(before[pick]["size_mb"]), rel=0.01)
    recipe = json.loads((run / "models" / name / "recipe.json").read_text())
    assert recipe["measured"]["latency_ms"] == timed.latency_ms
    after = rows_of(run)
    assert float(after[name]["measured_ms"]) == pytest.approx(timed.latency_ms, rel=1e-4)
    for row in set(before) & set(after):
        for column in ("latency_ms", "measured_ms", "meets"):
            assert after[row][column] == before[row][column]
    count = len(measurements(run))
    recover(run, wish, quiet)
    assert len(measurements(run)) == count


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


class Killer(threading.Thread):
    """Kills a worker in the middle of a measurement, once picks are measured; starts another one.

    Args:
        folder: Where workers have their files.
        journal: Of the run; the dense model is measured first, long before the picks.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.journal = journal
        self.worker, self.address = start_worker(folder)
        self.killed = False
        self.over = threading.Event()

    def run(self) -> None:
        with DeviceClient(self.address) as client:
            while not self.over.wait(0.02):
                if self._picks_are_measured() and self._is_busy(client):
                    self.worker.kill()
                    self.worker.communicate()
                    self.killed = True
                    self.worker, _ = start_worker(self.folder, listen=self.address)
                    return

    def _picks_are_measured(self) -> bool:
        return self.journal.is_file() and '"full"' in self.journal.read_text()

    def _is_busy(self, client: DeviceClient) -> bool:
        try:
            return client.info().busy
        except DeviceCallError:
            return False

    def stop(self) -> None:
        self.over.set()
        self.join(60)
        self.worker.terminate()
        self.worker.communicate(timeout=60)


def test_a_worker_that_is_killed_while_it_measures_changes_no_pick(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured twice is recorded once, and the picks are those of the journal alone."""
    rules = Rules(drift=1e3, noise=1e3, quarantine_s=0.5, poll_s=0.1)
    monkeypatch.setattr(measure, "RULES", rules)
    monkeypatch.setattr(measure, "PROTOCOL", replace(measure.PROTOCOL, min_time_s=0.2))
    run = tmp_path / "runs" / "exp"
    killer = Killer(tmp_path, run / "journal.jsonl")
    asked = {
        "data": str(tiny_data), "target": TARGET, "actors": 0, "imgsz": (128,), "evals": 2,
        "latency": ("90%", "60%"), "method": "uniform", "measure_on": (killer.address,),
    }  # fmt: skip
    killer.start()
    try:
        new_search(asked, run.parent, run.name, False, Console(file=io.StringIO()))
        assert killer.killed
        journal, picks = (run / "journal.jsonl").read_text(), (run / "picks.json").read_text()
        resume_search(str(run), run.parent, {}, Console(file=io.StringIO()))
    finally:
        killer.stop()
    assert (run / "journal.jsonl").read_text() == journal
    assert (run / "picks.json").read_text() == picks
    records = [json.loads(line) for line in journal.splitlines()[1:]]
    keys = Counter((record["digest"], record.get("rung", "measured")) for record in records)
    assert set(keys.values()) == {1}
    with (run / "front.csv").open() as file:
        digests = {row["id"]: row["digest"] for row in csv.DictReader(file) if row["measured_ms"]}
    times = {record["digest"]: record["measured"]["latency_ms"] for record in measurements(run)}
    assert set(digests.values()) <= set(times)
    assert [pick["budget"] for pick in json.loads(picks)] == ["60%", "90%"]
    for pick in json.loads(picks):
        assert times[digests[pick["id"]]] == pick["measured_ms"] <= pick["budget_ms"]
