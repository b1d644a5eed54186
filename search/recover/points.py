"""What a training ended with becomes a point of the run: files, record, recipe."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluators.evaluator import Evaluator
from evaluators.score import Failed
from evaluators.training.files import save_trained
from evaluators.training.trainer import Trained
from hw_models.errors import CorruptRunError
from search.deliver import make_recipe, native_format, write_verified
from search.finished import Finished
from search.front import RECOVERED, Point
from search.problem import Problem, accuracy
from search.recover.trials import Payload
from search.recover.tuning import Trials
from search.recover.weights import WEIGHTS, compressed
from search.run_folder import RunFolder, write_whole

log = logging.getLogger(__name__)


def deliver_recovered(
    finished: Finished, evaluator: Evaluator, point: Point, payload: Payload, trials: Trials
) -> str:
    """Export what the best trial of a point ended with, check the file, and record the new point.

    Returns:
        The id of the recovered point.

    Raises:
        CorruptRunError: If the exported file is not as good as the network it was made of.
    """
    assert trials.best is not None
    run, problem = finished.run, finished.problem
    config, training_file = trials.best
    training = payload.begin(config)
    training.load(training_file)
    trained = training.result()
    recovered = _recovered_point(finished, evaluator, point, trained)
    model = compressed(problem, trained, recovered.candidate)
    recipe = make_recipe(problem, recovered, model)
    recipe["recovered"] = {
        "from": point.id,
        "map50_95_before": accuracy(point.score),
        "plan": config["plan"],
        "treatment": asdict(payload.treatment),
        "trials": trials.summary,
        "weights": WEIGHTS,
        "weights_digest": trained.detector.digest,
        "training_digest": payload.training.digest,
    }
    file = write_verified(
        native_format(problem), run.model(recovered.id), problem, recovered, model, recipe,
        write_more=lambda folder: save_trained(trained, folder / WEIGHTS),
    )  # fmt: skip
    _record(run, problem, point, recovered, file.map50_95, trials.summary)
    log.info(
        "recovered %s: mAP50-95 %.4f (before %.4f, file %.4f)",
        recovered.id,
        accuracy(recovered.score),
        accuracy(point.score),
        file.map50_95,
    )
    return recovered.id


def _recovered_point(
    finished: Finished, evaluator: Evaluator, point: Point, trained: Trained
) -> Point:
    """Return the new point, with the bits that its training left it with, and its score."""
    bits = tuple(
        (layer, *trained.grids.bits.get(layer, (weight, act)))
        for layer, weight, act in point.candidate.bits
    )
    candidate = replace(point.candidate, bits=bits)
    name = _free_name(finished.run, point)
    score = evaluator.evaluate_forward(trained.simulated().net, candidate.imgsz)
    if isinstance(score, Failed):
        raise CorruptRunError(f"{name}: the trained network does not work: {score.message}.")
    return Point(name, RECOVERED, candidate, finished.problem.cost(candidate), score)


def _free_name(run: RunFolder, point: Point) -> str:
    """Return ID followed by r; by r2, r3, ... where that came from what was called ID before."""
    number = 1
    while True:
        name = f"{point.id}r" if number == 1 else f"{point.id}r{number}"
        path = run.recovered / f"{name}.json"
        if not path.exists() or _source(path) == point.candidate.digest:
            return name
        number += 1


def _source(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("source")
    except ValueError:
        return None


def _record(
    run: RunFolder,
    problem: Problem,
    point: Point,
    recovered: Point,
    exported: float,
    trials: list[dict[str, Any]],
) -> None:
    record = {
        "id": recovered.id,
        "from": point.id,
        "source": point.candidate.digest,
        "protocol": problem.protocol,
        "candidate": recovered.candidate.to_dict(),
        "score": recovered.score.to_dict(),
        "exported": exported,
        "trials": trials,
    }
    run.recovered.mkdir(parents=True, exist_ok=True)
    write_whole(run.recovered / f"{recovered.id}.json", json.dumps(record, indent=1) + "\n")
