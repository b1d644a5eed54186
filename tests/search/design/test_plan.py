from __future__ import annotations

from pathlib import Path

import pytest

from hw_models.errors import InputError
from search.design.plan import read_plan

MATRIX = """
models:
  small: {imgsz: [320, 256]}
  own: {weights: own.pt}
devices:
  jetson-tx2: [MAXN, MAXQ]
  jetson-xavier-nx:
budgets: [75%, 3ms]
methods: [paretrim, milp]
seeds: [0, 1]
options: {evals: 20, actors: 0}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.pt").write_bytes(b"")
    path = tmp_path / "matrix.yaml"
    path.write_text(MATRIX)
    return path


def test_the_matrix_is_whole_and_models_stay_together(file: Path) -> None:
    plan = read_plan(file)
    assert len(plan.jobs) == len({job.name for job in plan.jobs}) == 2 * 3 * 2 * 2
    assert [job.model for job in plan.jobs] == ["small"] * 12 + ["own"] * 12
    job = plan.jobs[-1]
    assert job.given["weights"] == str(file.parent / "own.pt")  # beside the file, not the shell
    assert job.given["evals"] == 20
    assert job.given["latency"] == ("75%", "3ms")
    assert job.power_mode == "15W"  # the device's default
    assert plan.fps == (30.0,)


def test_devices_may_be_a_list(file: Path) -> None:
    before, _, after = MATRIX.partition("devices:")
    file.write_text(
        before + "devices: [jetson-tx2]\nbudgets: [75%]\n" + after[after.index("methods") :]
    )
    assert {job.power_mode for job in read_plan(file).jobs} == {"MAXN"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[75%, 3ms]", "[3]", "unit is missing|budgets"),
        ("MAXQ", "MAXX", "no power mode 'MAXX'"),
        ("jetson-xavier-nx:", "jetson-xyz:", "No device profile"),
        ("budgets:", "budget:", "budget"),
        ("evals: 20", "seed: 1", "seed stands among the options"),
        ("evals: 20", "evils: 20", "evils"),
        ("models:", "models: [", "not readable YAML"),
        ("milp", "magic", "method"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_run(
    file: Path, old: str, new: str, words: str
) -> None:
    file.write_text(MATRIX.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_plan(file)
