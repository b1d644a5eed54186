from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hw_models.cost_table import CostTable, read_cost_table
from hw_models.errors import InputError

TABLE = CostTable(10.0, 8.0, {"a": {0.0: 5.0, 0.5: 3.0, 0.9: 1.0}, "b": {0.0: 3.0, 0.9: 2.0}})


def test_layers_that_are_not_named_stay_dense() -> None:
    assert TABLE.time_s({}) == 10.0
    assert TABLE.time_s({"a": 0.5}) == 8.0
    assert TABLE.speedup({"a": 0.9, "b": 0.9}) == 2.0


def test_a_sparsity_means_the_nearest_row() -> None:
    assert TABLE.time_s({"a": 0.55}) == TABLE.time_s({"a": 0.5})


def test_an_unknown_layer_is_an_error() -> None:
    with pytest.raises(InputError, match="no layer 'c'"):
        TABLE.time_s({"c": 0.5})


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("base\n10\nprunable\n8\na\n5 0\n3 0.5\n1 0.9\nb\n3 0\n2 0.9\n")
    assert read_cost_table(path) == TABLE


@pytest.mark.parametrize(
    "text", ["", "base\n1\na\n1 0\n", "base\n1\nprunable\n1\na\nx y\n", "a b c\n"]
)
def test_a_file_of_another_form_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"t\.txt"):
        read_cost_table(path)


@pytest.mark.parametrize(("model", "speedup"), [("yolov5s", 1.504), ("yolov5m", 2.006)])
def test_spdys_own_profiles_reach_their_speedup(shared: Path, model: str, speedup: float) -> None:
    table = read_cost_table(shared / "spdy" / f"{model}_timings.txt")
    with (shared / "spdy" / f"{model}_profile.csv").open(newline="") as file:
        profile = {row["layer"]: float(row["sparsity"]) for row in csv.DictReader(file)}
    assert table.speedup(profile) == pytest.approx(speedup, abs=5e-4)
