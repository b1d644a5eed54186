"""The Python API: the examples of docs/python.md are run as they stand, made small."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hw_models.errors import InfeasibleError, InputError
from search import api
from search.api import load_front
from tests.search.conftest import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
SMALL = {
    'data="demo",': 'data=DATA, imgsz=128, method="uniform", actors=0, prune="activation",',
    "evals=400": "evals=6",
    'latency="30ms"': 'latency="90%"',
    "trials=1, epochs=20": "trials=1, epochs=1",
}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = logging.getLogger().handlers
    yield
    logging.getLogger().handlers = before


def test_the_examples_of_the_documentation_run(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"DATA": str(searched.parent / "data.yaml")}
    text = "\n".join(EXAMPLES)
    for large, small in SMALL.items():
        assert large in text
        text = text.replace(large, small)
    exec(text, names)  # noqa: S102 - our own documentation
    run = Path("runs/search/exp")
    # the same search by the command line, its options those of SMALL, has the same front
    expected = load_front(searched).points
    assert names["front"].points == tuple(_moved(point, run) for point in expected)
    assert names["file"].path.is_file()
    assert names["better"].id == f"{names['point'].id}r"
    assert (run / "models" / names["better"].id / "openvino" / "model.xml").is_file()
    on_front = names["better"].id in {point.id for point in load_front(run).points}
    assert on_front or names["better"].map50_95 <= names["point"].map50_95
    assert "ms predicted" in capsys.readouterr().out


def _moved(point: api.FrontPoint, folder: Path) -> api.FrontPoint:
    values = {name: getattr(point, name) for name in point.__slots__}
    return api.FrontPoint(**{**values, "folder": folder})


def test_the_best_point_is_within_all_limits(searched: Path) -> None:
    front = load_front(searched)
    assert front.best() == max(front.points, key=lambda p: p.map50_95)
    fastest = front.points[0]
    assert front.best(latency_ms=fastest.latency_ms) == fastest
    with pytest.raises(InfeasibleError, match=r"latency_ms 0\.001.*the lowest are latency_ms"):
        front.best(latency_ms=0.001)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        load_front(tmp_path)
