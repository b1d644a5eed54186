"""The command line as a user meets it: options, exit codes, one-paragraph errors.

What is refused before anything starts is called in this process, the rest in processes of its own.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.search.conftest import answered

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = {
    "--act-bits", "--actors", "--bits", "--data", "--depth", "--energy", "--evals", "--exist-ok",
    "--help", "--ignore", "--imgsz", "--latency", "--max-drop", "--measure-on", "--method",
    "--mirror", "--name", "--pattern", "--power-mode", "--project", "--prune", "--resume",
    "--reuse", "--seed", "--server-name", "--size", "--target", "--time-budget", "--tls-ca",
    "--tls-cert", "--tls-key", "--token-file", "--track", "--trust-checkpoint", "--weights",
}  # fmt: skip
KEPT_BY_RAY_SUBMIT = {
    "--stop", "--start", "--screen", "--tmux", "-n", "--cluster-name", "-p", "--port-forward",
    "--no-config-cache", "--args", "--disable-usage-stats", "--extra-screen-args", "-v",
    "--verbose", "--log-style", "--log-color",
}  # fmt: skip


def search(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "search.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)  # noqa: S603


def assert_one_paragraph(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]


def test_the_options_are_the_contract() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(ROOT / "search.py"), "--help"],
        capture_output=True, text=True, timeout=60, env={"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*\b", done.stdout)) & (
        OPTIONS
        | KEPT_BY_RAY_SUBMIT
        | set(re.findall(r"^\W+(--[a-z-]+)", done.stdout, re.MULTILINE))
    )
    assert options == OPTIONS
    assert not options & KEPT_BY_RAY_SUBMIT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--latency is missing", "--latency 30ms"]),
        (["--latency", "30"], ["unit is missing", "30ms"]),
        (["--latency", "30ms", "--imgsz", "big"], ["--imgsz big", "whole numbers"]),
        (["--latency", "30ms", "--imgsz", "100"], ["100", "32"]),
        (["--latency", "30ms", "--target", "toaster"], ["toaster", "jetson-tx2"]),
        (["--latency", "30ms", "--power-mode", "TURBO"], ["TURBO", "MAXN"]),
        (["--latency", "30ms", "--weights", "none.pt"], ["none.pt"]),
        (["--latency", "30ms", "--data", "none.yaml"], ["none.yaml"]),
        (["--latency", "30ms", "--ignore", "re:nothing"], ["re:nothing"]),
        (["--latency", "30ms", "--prune", "magic"], ["magic", "l2"]),
        (["--latency", "30ms", "--bits", "1"], ["1-bit"]),
        (["--latency", "30ms", "--pattern", "9ep"], ["9ep", "2ep"]),
        (["--latency", "30ms", "--pattern", "2:4"], ["2:4", "jetson-tx2", "Ampere"]),
        (["--latency", "30ms", "--evals", "many"], ["--evals", "integer"]),
        (["--latency", "30ms", "--nonsense"], ["--nonsense", "--help"]),
        (["--resume", "nowhere"], ["nowhere", "study.yaml"]),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_2(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    assert_one_paragraph(answered("search", *arguments, cwd=tmp_path), 2, *words)
    assert not (tmp_path / "runs").exists()


def test_an_unreachable_budget_is_an_answer(tmp_path: Path) -> None:
    done = search("--latency", "0.01ms", cwd=tmp_path)
    assert_one_paragraph(done, 3, "lowest reachable latency is", "ms", "dearest")
    assert not (tmp_path / "runs").exists()


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"model": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    done = answered("search", "--latency", "30ms", "--weights", path, cwd=tmp_path)
    assert_one_paragraph(done, 2, "cut.pt")


class _Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, archive: bool) -> None:
    path, victim = tmp_path / "hostile.pt", tmp_path / "pwned"
    torch.save({"model": _Hostile(victim)}, path, _use_new_zipfile_serialization=archive)
    done = answered("search", "--latency", "30ms", "--weights", path, cwd=tmp_path)
    assert_one_paragraph(done, 2, "hostile.pt")
    assert not victim.exists()


def test_a_plain_hostile_pickle_is_refused(tmp_path: Path) -> None:
    path, victim = tmp_path / "hostile.pt", tmp_path / "pwned"
    path.write_bytes(pickle.dumps(_Hostile(victim)))
    assert_one_paragraph(search("--latency", "30ms", "--weights", path), 2, "hostile.pt")
    assert not victim.exists()


def test_the_launcher_alone_says_what_is_missing(tmp_path: Path) -> None:
    # What `ray submit` would meet on a head node without the packages.
    launcher = tmp_path / "search.py"
    launcher.write_bytes((ROOT / "search.py").read_bytes())
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(launcher), "--latency", "30ms"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "hw_models, spaces, evaluators, search" in done.stderr
    assert "ray up" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_launcher_beside_the_packages_finds_them(tmp_path: Path) -> None:
    # The head's home after `ray up`: the packages beside search.py, nothing installed is needed.
    for name in ("search.py", "hw_models", "spaces", "evaluators", "search"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "search.py", "--help"],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--latency" in done.stdout
