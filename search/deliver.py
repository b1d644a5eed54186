"""From points to files: a really smaller ONNX model for each pick, checked by running it.

Each of `models/ID/` holds model.onnx and recipe.json; the recipe says how the model was made from
the dense weights and how good the *file* is, through ONNX Runtime on all validation images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from evaluators.evaluator import Evaluator
from evaluators.score import Failed
from search.front import Point
from search.measure import Bench
from search.problem import Problem, accuracy
from search.run_folder import RunFolder, write_whole

log = logging.getLogger(__name__)

TOLERANCE = 0.01  # of mAP50-95 between a point and its file


def deliver(
    run: RunFolder,
    problem: Problem,
    evaluator: Evaluator,
    points: Iterable[Point],
    bench: Bench | None = None,
) -> dict[str, float]:
    """Export points and measure the accuracy of the files.

    Args:
        run: Where to.
        problem: What was searched.
        evaluator: Exports and scores.
        points: Which.
        bench: Has timed files; those are delivered.

    Returns:
        mAP50-95 of the exported file by point id.
    """
    exported = {}
    for point in points:
        folder = run.model(point.id)
        path = folder / "model.onnx"
        (evaluator.export if bench is None else bench.deliver)(point.candidate, path)
        score = evaluator.evaluate_onnx(path, point.candidate.imgsz)
        if isinstance(score, Failed):
            log.warning("%s: the exported file does not work: %s", point.id, score.message)
            continue
        exported[point.id] = accuracy(score)
        gap = accuracy(score) - accuracy(point.score)
        log.log(
            logging.INFO if abs(gap) <= TOLERANCE else logging.WARNING,
            "exported %s: %.2f MB, mAP50-95 of the file %.4f (%+.4f)",
            point.id,
            path.stat().st_size / 1e6,
            exported[point.id],
            gap,
        )
        recipe = make_recipe(problem, point)
        recipe["exported"] = {"map50_95": exported[point.id], "bytes": path.stat().st_size}
        if bench is not None:
            recipe["measured"] = asdict(bench.measure(point.candidate))
        write_whole(folder / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    return exported


def make_recipe(problem: Problem, point: Point) -> dict[str, Any]:
    """Return what was done to the dense model to make a point."""
    return {
        "id": point.id,
        "paretrim": version("paretrim"),
        "weights": problem.settings.weights,
        "weights_digest": problem.detector.digest,
        "target": problem.settings.target,
        "power_mode": problem.settings.power_mode,
        "criterion": problem.settings.prune,
        "candidate": point.candidate.to_dict(),
        "score": point.score.to_dict(),
        "predicted": {
            "latency_ms": point.cost.latency_ms,
            "latency_low_ms": point.cost.low_ms,
            "latency_high_ms": point.cost.high_ms,
            "energy_mj": point.cost.energy_mj,
            "size_bytes": point.cost.size_bytes,
            "macs": point.cost.macs,
        },
    }
