"""Patterns through the whole search, on the target that executes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.search.test_end_to_end import finish, journal_of, rows_of, start

TARGET = ("--target", "jetson-tx2-pattern", "--pattern", "2ep,3ep", "--prune", "none")


def test_patterns_are_searched_priced_scored_and_exported(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "exp"
    budget = ("--latency", "97%", "--method", "nsga2", "--evals", "10", "--actors", "0")
    finish(start(run, "--data", tiny_data, "--imgsz", "160", *TARGET, *budget))
    names = {
        pattern
        for record in journal_of(run)
        for _, pattern in record.get("candidate", {}).get("patterns", [])
    }
    assert names == {"2ep", "3ep"}
    dense = next(row for row in rows_of(run) if row["id"] == "dense")
    (pick,) = json.loads((run / "picks.json").read_text())
    chosen = next(row for row in rows_of(run) if row["id"] == pick["id"])
    assert float(chosen["latency_ms"]) <= 0.97 * float(dense["latency_ms"])
    assert float(chosen["size_mb"]) < float(dense["size_mb"])
    assert abs(float(chosen["map50_95_exported"]) - float(chosen["map50_95"])) < 0.02
    folder = run / "models" / pick["id"]
    patterns = json.loads((folder / "recipe.json").read_text())["candidate"]["patterns"]
    assert patterns
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(folder / "model.onnx")).graph.initializer
        if len(tensor.dims) == 4
    ]
    sparse = [weight for weight in weights if np.count_nonzero(weight) <= weight.size / 3]
    assert len(sparse) == len(patterns)
