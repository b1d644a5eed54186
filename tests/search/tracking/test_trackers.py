"""Every tracker with its real library: what was told can be read back."""

from __future__ import annotations

import struct
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
import ray
import wandb
from tensorboardX.proto.event_pb2 import Event

from hw_models.errors import InputError
from search.run import read_settings
from search.run_folder import RunFolder
from search.settings import Settings
from search.tracking import chosen
from search.tracking.ray_metrics import RayMetrics
from search.tracking.state import State

FIRST = State(60.0, 10, 1, 2, 0.9, 0.05, {"75%": 0.4, "30ms": 0.5})
SECOND = State(120.0, 25, 1, 2, 0.8, 0.07, {"75%": 0.45, "30ms": 0.5})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "exp")
    run.path.mkdir()
    run.front.write_text("id\n")
    return run


def settings_of(*track: str) -> Settings:
    return read_settings({"latency": ("75%", "30ms"), "track": track})


def tell(run: RunFolder, name: str) -> None:
    (tracker,) = [
        tracker
        for tracker in chosen.trackers(run, settings_of(name))
        if type(tracker).__name__.lower() == name
    ]
    for state in (FIRST, SECOND):
        tracker.report(state)
    tracker.close()


def events(folder: Path) -> list[Event]:
    """Read TensorBoard's records: length, its checksum, content, its checksum."""
    (path,) = folder.glob("events.*")
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_tensorboard(run: RunFolder) -> None:
    tell(run, "tensorboard")
    told = [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events(run.tensorboard)
        for value in event.summary.value
    ]
    assert ("hypervolume", 10, 0.05) in told
    assert ("best_map50_95/75pct", 25, 0.45) in told


def test_mlflow(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    tell(run, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("paretrim")
    (told,) = client.search_runs([experiment.experiment_id])
    assert told.info.run_name == "exp"
    assert told.info.status == "FINISHED"
    assert told.data.params["latency"] == "['75%', '30ms']"
    history = client.get_metric_history(told.info.run_id, "best_map50_95/75pct")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.4), (25, 0.45)]
    assert [file.path for file in client.list_artifacts(told.info.run_id)] == ["front.csv"]


def test_wandb(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        tell(run, "wandb")
    finally:
        wandb.teardown()
    (written,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"best_map50_95/75pct" in written.read_bytes()


def test_ray_metrics_can_be_scraped(run: RunFolder) -> None:
    ray.init(
        num_cpus=1, include_dashboard=False, log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        metrics = RayMetrics("exp")
        for state in (FIRST, SECOND):
            metrics.report(state)
        port = ray.nodes()[0]["MetricsExportPort"]
        wanted = {
            "ray_paretrim_evaluations_total": 25.0,
            "ray_paretrim_failures_total": 1.0,
            "ray_paretrim_busy": 0.8,
            "ray_paretrim_hypervolume": 0.07,
        }
        deadline = time.monotonic() + 120
        scraped: dict[str, float] = {}
        while time.monotonic() < deadline and scraped != wanted:
            time.sleep(0.3)
            samples = scrape(f"http://127.0.0.1:{port}/metrics")
            scraped = {name: samples[name] for name in wanted if name in samples}
    finally:
        ray.shutdown()
    assert scraped == wanted


def scrape(url: str) -> dict[str, float]:
    """Return the samples of this run by name."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http on loopback
        lines = answer.read().decode().splitlines()
    return {line.split("{")[0]: float(line.split()[-1]) for line in lines if 'run="exp"' in line}


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chosen.CHOICES, "wandb", ("surely_not_there", "", ""))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="surely_not_there"):
        chosen.check_installed(settings_of("wandb"))
    chosen.check_installed(settings_of("tensorboard", "mlflow"))


def test_unknown_trackers_are_refused() -> None:
    with pytest.raises(InputError, match="--track"):
        settings_of("carrier-pigeon")
