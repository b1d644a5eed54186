from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from evaluators import database as module
from evaluators import dense
from evaluators.database import Database, default_folder
from evaluators.demo import demo_dataset, demo_detector
from evaluators.evaluator import Evaluator
from evaluators.score import Score
from spaces.candidate import Candidate
from spaces.groups import analyse
from spaces.saliency import rank


def never() -> NoReturn:
    raise AssertionError("measured although it is known")


def raise_(error: Exception) -> NoReturn:
    raise error


def tensor(value: float = 1.0) -> Tensor:
    return torch.full((1000,), value)


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the disk is, it is not full enough."""
    monkeypatch.setattr(module, "SPARE", 0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "kept")


def files(database: Database) -> list[Path]:
    return sorted(database.folder.glob("*.pt"))


def test_what_is_known_is_not_measured_again(database: Database) -> None:
    assert torch.equal(database.recall(["a", 1], tensor), tensor())
    assert torch.equal(database.recall(["a", 1], never), tensor())
    assert torch.equal(Database(database.folder).recall(["a", 1], never), tensor())
    with pytest.raises(AssertionError):
        database.recall(["a", 2], never)


def test_nobody_writes_to_what_is_shared(database: Database) -> None:
    database.recall(["a"], tensor).add_(1)
    assert torch.equal(database.recall(["a"], never), tensor())


def test_a_damaged_file_is_measured_again(database: Database) -> None:
    database.recall(["a"], tensor)
    (file,) = files(database)
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(database.recall(["a"], lambda: tensor(2)), tensor(2))
    assert torch.equal(database.recall(["a"], never), tensor(2))


def test_reading_a_file_executes_nothing(database: Database, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "broken-in"),)

    database.recall(["a"], tensor)
    (file,) = files(database)
    for write in (lambda: torch.save(Hostile(), file), lambda: file.write_bytes(pickle.dumps(0))):
        write()
        assert torch.equal(database.recall(["a"], tensor), tensor())
    assert not (tmp_path / "broken-in").exists()


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert torch.equal(Database(tmp_path / "file" / "below").recall(["a"], tensor), tensor())


def test_a_disk_is_not_filled(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE", 1e18)
    assert torch.equal(database.recall(["a"], tensor), tensor())
    assert not files(database)


def test_what_was_not_used_for_longest_goes_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.recall(["a"], tensor)
    (a,) = files(database)
    database.recall(["b"], tensor)
    (b,) = set(files(database)) - {a}
    monkeypatch.setattr(module, "LARGEST", 2.5 * a.stat().st_size)
    long_ago = time.time() - 3600
    os.utime(a, (long_ago, long_ago))
    os.utime(b, (long_ago, long_ago))
    database.recall(["a"], never)
    database.recall(["c"], tensor)
    assert a.exists()
    assert not b.exists()


SLOW = """
import sys, time, torch
from pathlib import Path
from evaluators.database import Database
def measure():
    Path(sys.argv[2]).open("a").write("measured\\n")
    time.sleep(2)
    return torch.ones(3)
print(Database(Path(sys.argv[1])).recall(["slow"], measure).sum().item())
"""


def test_one_process_measures_and_the_others_wait(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path / "kept"), str(tmp_path / "log")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: S603
    assert [process.communicate(timeout=400)[0] for process in running] == ["3.0\n"] * 2
    assert (tmp_path / "log").read_text() == "measured\n"


def test_the_folder_is_of_the_user_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETRIM_CACHE", "/given")
    assert default_folder() == Path("/given")
    monkeypatch.delenv("PARETRIM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/own")
    assert default_folder() == Path("/own/paretrim")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: raise_(RuntimeError("no home")))
    assert default_folder() == Path(tempfile.gettempdir()) / "paretrim"


def test_a_second_evaluator_measures_nothing_and_scores_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETRIM_CACHE", str(tmp_path))
    detector, size = demo_detector(), 96
    network = analyse(detector, size)
    candidate = Candidate(
        size,
        tuple((group.name, max(1, group.size // 2)) for group in network.groups),
        bits=tuple((layer.name, 6, 8) for layer in network.layers),
    )

    def score(calibration: int, rung: str) -> Score:
        evaluator = Evaluator(
            detector, network, rank(detector, network),
            demo_dataset("train", calibration), demo_dataset("val", 3),
        )  # fmt: skip
        scored = evaluator.evaluate(candidate, rung)
        assert isinstance(scored, Score)
        return scored

    before = score(3, "subset"), score(3, "full")
    for name in ("moments", "inputs", "outputs"):
        monkeypatch.setattr(dense, f"measure_{name}", lambda *_: never())
    monkeypatch.setattr(dense, "calibrate_activations", lambda *_: never())
    assert (score(3, "subset"), score(3, "full")) == before
    with pytest.raises(AssertionError, match="measured"):
        score(2, "subset")
