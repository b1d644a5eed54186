"""`paretrim recover` from the outside: a real search, real Ray Tune, real training, real files."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from evaluators.training.files import load_trained
from hw_models.errors import CorruptRunError, InputError
from search.finished import read_finished
from search.front import RECOVERED, Point, non_dominated
from search.problem import accuracy, prepare
from search.recover.command import recover
from search.recover.trials import Payload, Start, default_rate, train_trial, trial_configs
from search.recover.tuning import AshaByPoint, tune_points
from search.recover.wish import Treatment, Wish
from search.run_folder import RunFolder
from spaces.onnx_detector import OnnxDetector
from tests.search.conftest import IMGSZ, ROOT, answered, call, paretrim
from tests.search.test_cli import assert_one_paragraph


def rows_of(run: Path) -> dict[str, dict[str, str]]:
    with (run / "front.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_killed_and_continued_a_recovery_improves_the_pick(searched: Path, tmp_path: Path) -> None:
    run = tmp_path / "exp"
    shutil.copytree(searched, run)
    before = {name: (run / name).read_bytes() for name in ("journal.jsonl", "front.csv")}
    arguments = ("recover", run, "--trials", "2", "--epochs", "7")
    process = subprocess.Popen(  # noqa: S603
        paretrim(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**os.environ, "TUNE_GLOBAL_CHECKPOINT_S": "3600"},
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while "epoch 2 of" not in (run / "log.txt").read_text() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.kill()
    process.communicate()
    assert {name: (run / name).read_bytes() for name in before} == before  # nothing was damaged

    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    log = (run / "log.txt").read_text()
    assert "going on with the trials" in log
    for number in (0, 1):  # each went on where it was, though Tune's state was of the beginning
        epochs = [int(n) for n in re.findall(rf"trial {number}: epoch (\d) of 7", log)]
        assert epochs == sorted(epochs)
    assert len(list((run / "recover").glob("tune-*"))) == 1
    assert (run / "journal.jsonl").read_bytes() == before["journal.jsonl"]

    rows = rows_of(run)
    (pick,) = json.loads((run / "picks.json").read_text())
    source = rows_of(searched)[pick["id"].removesuffix("r")]
    recovered = rows[pick["id"]]
    assert pick["id"].endswith("r")
    assert recovered["method"] == RECOVERED
    assert float(recovered["map50_95"]) > float(source["map50_95"]) + 0.02
    assert recovered["latency_ms"] == source["latency_ms"]
    assert recovered["digest"] == source["digest"]
    gap = float(recovered["map50_95_exported"]) - float(recovered["map50_95"])
    assert abs(gap) <= 0.01
    points = [row for name, row in rows.items() if name != "dense"]
    assert non_dominated([[-float(r["map50_95"]), float(r["latency_ms"])] for r in points]).all()

    folder = run / "models" / pick["id"]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["recovered"]["from"] == source["id"]
    assert recipe["exported"]["largest_difference"] < 0.05
    trained = load_trained(folder / "weights.safetensors")
    x = torch.rand(1, 3, IMGSZ, IMGSZ)
    found = torch.from_numpy(OnnxDetector(folder / "model.onnx")(x.numpy()))
    assert (found - trained.simulated().net(x)).abs().mean() < 0.1  # pixels, mostly
    assert pick["id"] in (run / "report.html").read_text()
    assert recipe["recovered"]["trials"][0]["map50_95"] > 0
    assert len(recipe["recovered"]["trials"]) == 2

    front = (run / "front.csv").read_bytes()
    done = call("search", "--resume", run, "--actors", "0")
    assert done.returncode == 0, done.stderr
    assert (run / "front.csv").read_bytes() == front  # recovered points stay in it


def test_a_trial_that_diverges_is_reported_and_not_picked(
    searched: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problem = prepare(RunFolder(searched).read_settings())
    student = problem.build().build(problem.dense())
    payload = Payload(
        {"dense": Start(student, {}, None, {}, {}, 0.0)},
        problem.detector,
        problem.validation,
        problem.validation,
        Treatment(),
    )
    (good,) = trial_configs({"dense": 1e-3}, 16, Wish(trials=1, epochs=1))
    wild = {"point": "dense", "number": 1, "plan": {**good["plan"], "learning_rate": 1e15}}
    wild["plan"]["epochs"] = 6
    with caplog.at_level(logging.INFO):
        trials = tune_points(RunFolder(tmp_path), payload, [good, wild])
    assert trials["dense"].best is not None
    assert trials["dense"].best[0]["number"] == 0
    reached, ended = trials["dense"].summary
    assert reached["map50_95"] is not None
    assert "stopped" not in reached
    assert ended["stopped"].startswith("diverged: ")
    assert "dense trial 1: diverged: " in caplog.text


def test_a_node_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    payload: Any = None  # not looked at
    with pytest.raises(
        InputError, match=r"no folder .*, which trains a trial of p01; expected one"
    ):
        train_trial({"trial": {"point": "p01", "number": 0}}, payload, tmp_path / "elsewhere")


def test_the_first_trials_are_the_default_with_and_without_distillation() -> None:
    wish = Wish(trials=3, epochs=10)
    configs = trial_configs({"a": 1e-3, "b": 2e-4}, 100, wish)
    assert [(c["point"], c["number"]) for c in configs] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)
    ]  # fmt: skip
    rates = [config["plan"].pop("learning_rate") for config in configs]
    assert rates[:4] == [1e-3, 2e-4, 1e-3, 2e-4]
    assert rates[5] == pytest.approx(rates[4] / 5)
    assert configs[0]["plan"] == configs[1]["plan"]
    assert configs[0]["plan"]["epochs"] == 10
    assert [c["plan"]["distillation"] > 0 for c in configs[:3]] == [True, True, False]


def test_what_has_lost_little_is_trained_gently(searched: Path) -> None:
    problem_dense = read_finished(searched).searched.dense[0]

    def with_share(share: float) -> Point:
        score = replace(problem_dense.score, map50_95=share * accuracy(problem_dense.score))
        return replace(problem_dense, score=score)

    rates = [default_rate(with_share(share), problem_dense) for share in (0.3, 0.8, 0.9, 1.0)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1e-4])


class _Trial:
    def __init__(self, name: str, point: str) -> None:
        self.trial_id = name
        self.config = {"trial": {"point": point}}


def test_without_labels_every_trial_learns_from_the_dense_model() -> None:
    wish = Wish(trials=4, epochs=10, labels=False)
    configs = trial_configs({"a": 1e-3}, 100, wish)
    assert all(c["plan"]["labels"] == 0 < c["plan"]["distillation"] for c in configs)


def test_trials_compete_within_their_point_only() -> None:
    scheduler = AshaByPoint()
    good, bad, other = _Trial("1", "a"), _Trial("2", "a"), _Trial("3", "b")
    for trial in (good, bad, other):
        scheduler.on_trial_add(None, trial)
    decisions = [
        scheduler.on_trial_result(None, trial, {"percent": 60, "map50_95": value})
        for trial, value in ((good, 0.5), (bad, 0.4), (other, 0.1))
    ]
    assert decisions == ["CONTINUE", "STOP", "CONTINUE"]


@pytest.fixture
def attempt() -> Iterator[Callable[..., str]]:
    """Return a function that recovers in this process and returns the error's words."""
    handlers = logging.getLogger().handlers

    def run_it(run: Path, **wish: Any) -> str:
        with pytest.raises((InputError, CorruptRunError)) as caught:
            recover(run, Wish(**wish), Console(quiet=True))
        return str(caught.value)

    yield run_it
    logging.getLogger().handlers = handlers


def test_a_bad_call_is_one_paragraph(tmp_path: Path) -> None:
    assert_one_paragraph(
        answered("recover", tmp_path, cwd=tmp_path), 2, "study.yaml", str(tmp_path)
    )


def test_wrong_options_are_named(searched: Path, attempt: Callable[..., str]) -> None:
    assert "--trials 0" in attempt(searched, trials=0)
    assert "--rounding up: expected one of lsq, nipq, drgs" in attempt(
        searched, treatment=Treatment(rounding="up")
    )
    assert "--slimming x" in attempt(searched, treatment=Treatment(slimming="x"))
    both = attempt(searched, treatment=Treatment(gradual=True, layers=True))
    assert "--gradual and --layers" in both
    unknown = attempt(searched, points=("p99",))
    assert "--point p99" in unknown
    assert "p01" in unknown


@pytest.mark.parametrize("missing", ["journal.jsonl", "front.csv", "picks.json"])
def test_an_unfinished_run_is_refused(
    missing: str, searched: Path, tmp_path: Path, attempt: Callable[..., str]
) -> None:
    run = tmp_path / "exp"
    shutil.copytree(searched, run)
    (run / missing).unlink()
    assert f"has no {missing}" in attempt(run)


def test_a_front_that_the_journal_does_not_know_is_refused(
    searched: Path, tmp_path: Path, attempt: Callable[..., str]
) -> None:
    run = tmp_path / "exp"
    shutil.copytree(searched, run)
    text = (run / "front.csv").read_text()
    digest = next(iter(rows_of(run).values()))["digest"]
    (run / "front.csv").write_text(text.replace(digest, "0" * 64))
    assert "not in the journal" in attempt(run)
    (run / "front.csv").write_text("id\n1\n")
    assert "expected a table with id" in attempt(run)
    (run / "front.csv").write_text(text.replace("uniform", RECOVERED))
    shutil.rmtree(run / "recover", ignore_errors=True)
    assert "the front before them, is gone" in attempt(run).replace("\n", " ")
