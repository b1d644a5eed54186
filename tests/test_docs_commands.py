"""What the documentation says to type is run, in the order of a user's first day.

A working folder stands in for the user's: the demo detector is `yolov5s.pt`, a few images are
`mydata.yaml`. Searches are made short (`SHORT` overrides what a page says); ids of points, which
are the search's to give, are replaced by those that there are. It takes a while and is asked for:
`PARETRIM_DOCS_TESTS=1 pytest tests/test_docs_commands.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluators.demo import demo_detector
from evaluators.demo.generator import NAMES
from tests.search.conftest import write_data
from tests.test_docs import ROOT, commands, words_of

if not os.environ.get("PARETRIM_DOCS_TESTS"):
    pytest.skip("asked for with PARETRIM_DOCS_TESTS=1", allow_module_level=True)
pytestmark = pytest.mark.timeout(1200)

SHORT = ("--data", "mydata.yaml", "--evals", "6", "--imgsz", "160", "--actors", "0")
ELSEWHERE = {
    r"^ray |s3://": "run by tests/search/cluster, tests/search/tracking/test_mirror.py",
    r"-m benchmarks\.": "run by hand: it needs real data or hours",
    r"^paretrim study ": "run by tests/search/design, on a smaller plan",
    r"paretrim-worker |--measure-on|^paretrim devices": "run by tests/hw_models/test_live.py, "
    "tests/search/test_measure.py",
}
"""Commands that need what is not here, and why they are skipped."""
RUN = "runs/search/exp"


def first(command: str) -> tuple[int, str]:
    """Order: the search that makes runs/search/exp, other searches, what reads them."""
    steps = ("python search.py --latency 30ms", "python search.py", "paretrim export ")
    return next((i for i, s in enumerate(steps) if command.startswith(s)), len(steps)), command


def in_order() -> list[str]:
    return sorted({shlex.join(words_of(command)) for _, command in commands()}, key=first)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder."""
    folder = tmp_path_factory.mktemp("desk")
    write_data(folder / "mydata.yaml", val=16, train=24)
    net = demo_detector().net.half()
    net.names = dict(enumerate(NAMES))
    torch.save({"model": net, "train_args": {"imgsz": 320}}, folder / "yolov5s.pt")
    measured = ROOT / "hw_models" / "measurements"
    shutil.copy(measured / "jetson-tx2.csv", folder / "measurements.csv")
    return folder


def picks(desk: Path) -> list[str]:
    return [pick["id"] for pick in json.loads((desk / RUN / "picks.json").read_text())]


def adapt(command: str, desk: Path) -> list[str]:
    """Make it short, and name the points that there are."""
    program, *arguments = shlex.split(command)
    name = Path(program).name
    if name == "python":
        return [sys.executable, str(ROOT / arguments[0]), *arguments[1:], *short(arguments)]
    assert name == "paretrim", command
    arguments = [re.sub(r"\bp\d\d$", picks(desk)[0], argument) for argument in arguments]
    if arguments[0] == "search":
        arguments += short(arguments)
    if arguments[0] == "recover":
        arguments += ["--epochs", "1"]
    if arguments[0] == "apply":  # of a search with these weights
        recipes = sorted((desk / "runs").glob("search/*/models/*/recipe.json"))
        arguments[1] = next(str(r) for r in recipes if "yolov5s.pt" in r.read_text())
    return [sys.executable, "-c", "from search.cli import main; main()", *arguments]


def short(arguments: list[str]) -> tuple[str, ...]:
    return () if "--resume" in arguments or "--help" in arguments else SHORT


@pytest.mark.parametrize("command", in_order())
def test_a_command_runs(command: str, desk: Path) -> None:
    for pattern, reason in ELSEWHERE.items():
        if re.search(pattern, command):
            pytest.skip(reason)
    if "model.onnx" in command:
        shutil.copy(next((desk / RUN / "models").glob("*/model.onnx")), desk / "model.onnx")
    done = subprocess.run(  # noqa: S603
        adapt(command, desk), cwd=desk, text=True, capture_output=True, timeout=1000
    )
    assert done.returncode == 0, done.stdout + done.stderr
