"""From points to files: written in a format, checked by running them, and described by a recipe.

Each of `models/ID/` holds model.onnx and recipe.json, other formats folders of their own below it.
The recipe says how the point is made from the dense weights (`paretrim apply` does it again) and
what was found about the *file*. A file that is not what was promised never gets its place.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluators.evaluator import Evaluator
from evaluators.verify import Verified, verify
from hw_models.errors import CorruptRunError
from search.front import Point
from search.measure import Bench
from search.problem import Problem, accuracy
from search.run_folder import RunFolder, write_whole
from spaces.formats import FORMATS
from spaces.formats.interface import Compressed, Format

log = logging.getLogger(__name__)

RECIPE_FORMAT = "paretrim-recipe-1"
IN_RECIPES = {
    "weights", "data", "imgsz", "target", "power_mode", "latency", "energy", "size", "max_drop",
    "method", "prune", "bits", "act_bits", "pattern", "ignore",
}  # fmt: skip
"""Settings that say what a point is and why it was chosen; others are nobody else's business."""


def deliver(
    run: RunFolder,
    problem: Problem,
    evaluator: Evaluator,
    points: Iterable[Point],
    bench: Bench | None = None,
) -> dict[str, float]:
    """Export points in the form of the target and check the files; what fails is logged.

    Args:
        run: Where to.
        problem: What was searched.
        evaluator: Builds what is exported.
        points: Which.
        bench: Has timed files; those are delivered.

    Returns:
        mAP50-95 of the exported file, by the ids of the points whose files are as promised.
    """
    exported = {}
    for point in points:
        model = evaluator.compressed(point.candidate)
        recipe = make_recipe(problem, point, model)
        timed = None
        if bench is not None:
            timed = bench.file(point.candidate)
            recipe["measured"] = asdict(bench.measure(point.candidate))
        try:
            verified = write_verified(
                native_format(problem), run.model(point.id), problem, point, model, recipe,
                written=timed,
            )  # fmt: skip
        except CorruptRunError as error:
            log.error("%s: %s", point.id, error)
            continue
        exported[point.id] = verified.map50_95
    return exported


def check_delivered(points: Iterable[Point], exported: dict[str, float]) -> None:
    """End a run with an error where a file is not what its point promised.

    Raises:
        CorruptRunError: A point has no good file.
    """
    missing = [point.id for point in points if point.id not in exported]
    if missing:
        raise CorruptRunError(
            f"The exported files of {', '.join(missing)} are not what the search promised; log.txt"
            " says how.",
            "The front is written and stays valid. Please report this with log.txt.",
        )


def native_format(problem: Problem) -> Format:
    """Return the ONNX form that the target's runtime is fast with."""
    on_cpu = problem.space.baseline[0] == 32
    return FORMATS["onnx-cpu" if on_cpu else "onnx-tensorrt"]


def write_verified(
    form: Format,
    folder: Path,
    problem: Problem,
    point: Point,
    model: Compressed,
    recipe: dict[str, Any],
    *,
    min_score: float | None = None,
    written: Path | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> Verified:
    """Write a point in a format, check the file, and move it to its place with its recipe.

    Args:
        form: The format.
        folder: Where the files go; others in it stay.
        problem: Has the validation images.
        point: What is written; its score is what is promised.
        model: The same, built.
        recipe: What recipe.json says beside what is found about the file.
        min_score: See `Format.write`.
        written: A file that was written by the format before, to be delivered.
        write_more: Writes what else belongs to the point into the folder it is given.

    Raises:
        CorruptRunError: The file is not what was promised.
        InputError: The format cannot hold this model.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if written is None:
            path = form.write(model, part, min_score)
        else:
            path = Path(shutil.copyfile(written, part / form.file))
        if write_more is not None:
            write_more(part)
        verified = verify(form, path, model, problem.validation, accuracy(point.score), min_score)
        recipe = {**_measured(folder, path), **recipe, "exported": asdict(verified)}
        write_whole(part / "recipe.json", json.dumps(recipe, indent=1) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        for file in part.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.info("exported %s: %s", point.id, describe(verified, point))
    return verified


def _measured(folder: Path, path: Path) -> dict[str, Any]:
    """Return what was measured of the file that a new one takes the place of, if both are equal."""
    try:
        before = (folder / path.name).read_bytes()
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if "measured" not in recipe or before != path.read_bytes():
        return {}
    return {"measured": recipe["measured"]}


def describe(verified: Verified, point: Point) -> str:
    """Return in one line what was found about a file."""
    size_mb, predicted_mb = verified.bytes / 1e6, point.cost.size_bytes / 1e6
    words = [
        f"{verified.format}, {size_mb:.2f} MB ({predicted_mb:.2f} predicted)",
        f"mAP50-95 of the file {verified.map50_95:.4f}"
        f" ({verified.map50_95 - accuracy(point.score):+.4f})",
        f"{verified.integer_convolutions} convolutions in integers",
    ]
    if verified.largest_difference is not None:
        words.append(
            f"class scores differ by {verified.largest_difference:.2g} at most,"
            f" {verified.mean_difference:.2g} on average"
        )
    return "; ".join(words)


def make_recipe(problem: Problem, point: Point, model: Compressed) -> dict[str, Any]:
    """Return all that is needed to make a point from the dense weights again."""
    return {
        "format": RECIPE_FORMAT,
        "id": point.id,
        "paretrim": version("paretrim"),
        "weights": problem.settings.weights,
        "weights_digest": problem.detector.digest,
        "target": problem.settings.target,
        "power_mode": problem.settings.power_mode,
        "criterion": problem.settings.prune,
        "settings": problem.settings.model_dump(mode="json", include=IN_RECIPES),
        "protocol": problem.protocol,
        "candidate": point.candidate.to_dict(),
        "model_digest": model.detector.digest,
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
