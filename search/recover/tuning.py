"""All trainings of a recovery under Ray Tune: which go on, which end, and which was best."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from search.actors import start_ray
from search.recover.trials import Payload, train_trial, training_file
from search.run_folder import RunFolder

log = logging.getLogger(__name__)

TRIALS_PER_GPU = 4
GRACE_PERCENT = 50  # of its training that each trial gets before it may be stopped


class AshaByPoint(FIFOScheduler):
    """Asynchronous successive halving (Li et al., arXiv 1810.05934), among trials of one point.

    Trials are compared by mAP at equal shares of their trainings; points are not compared with each
    other, for a smaller one is not to be stopped for being less accurate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._schedulers: dict[str, AsyncHyperBandScheduler] = {}

    def _of(self, trial: Any) -> AsyncHyperBandScheduler:
        point = trial.config["trial"]["point"]
        if point not in self._schedulers:
            self._schedulers[point] = AsyncHyperBandScheduler(
                time_attr="percent",
                metric="map50_95",
                mode="max",
                max_t=100,
                grace_period=GRACE_PERCENT,
                reduction_factor=2,
                stop_last_trials=False,
            )
        return self._schedulers[point]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Let the point's scheduler know the trial."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let the point's scheduler decide."""
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))


class _EpochLines(tune.Callback):
    """Logs a line for each epoch of each trial."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Log how a trial stands."""
        config = trial.config["trial"]
        name = f"{config['point']} trial {config['number']}"
        if "stopped" in result:
            log.warning("%s: %s", name, result["stopped"])
            return
        log.info(
            "%s: epoch %d of %d, loss %.3f, mAP50-95 %.3f on few images, %.0f s",
            name,
            result["epoch"],
            config["plan"]["epochs"],
            result["loss"],
            result["map50_95"],
            result["seconds"],
        )


def plan_digest(payload: Payload, configs: Sequence[dict[str, Any]]) -> str:
    """Return a short name of all that decides the trials."""
    starts = {
        name: [start.student.digest, sorted(start.bits.items())]
        for name, start in payload.starts.items()
    }
    parts = [
        starts, payload.teacher.digest, payload.training.digest, payload.validation.digest,
        asdict(payload.treatment), list(configs),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Trials:
    """The trials of one point.

    Attributes:
        summary: One record a trial: its plan, what it reached on all images, or why it ended.
        best: Configuration and training file of the best finished one; None if none finished.
    """

    summary: list[dict[str, Any]]
    best: tuple[dict[str, Any], Path] | None


def tune_points(
    run: RunFolder, payload: Payload, configs: Sequence[dict[str, Any]]
) -> dict[str, Trials]:
    """Carry out all trials, or go on with those of a killed driver.

    Returns:
        What became of the trials, by point.

    Raises:
        KeyboardInterrupt: If the trials were interrupted.
    """
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends here, not in Tune
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
    start_ray()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set one of its own
    folder = run.recovery.resolve()
    name = f"tune-{plan_digest(payload, configs)}"
    trainings = folder / name / "trainings"
    trainings.mkdir(parents=True, exist_ok=True)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    trainable = tune.with_resources(
        tune.with_parameters(train_trial, payload=payload, folder=trainings),
        {"cpu": 1, "gpu": 1 / TRIALS_PER_GPU if gpus else 0},
    )
    if tune.Tuner.can_restore(str(folder / name)):
        log.info("going on with the trials in %s", folder / name)
        tuner = tune.Tuner.restore(str(folder / name), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(configs))},
            tune_config=tune.TuneConfig(scheduler=AshaByPoint()),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_EpochLines()],
                verbose=0,
            ),
        )
    log.info("%d trials of %d points", len(configs), len(payload.starts))
    results = tuner.fit()
    return {point: _trials_of(point, results, trainings) for point in payload.starts}


def _trials_of(point: str, results: Any, trainings: Path) -> Trials:
    """Return what became of the trials of a point."""
    summary, best, best_score = [], None, -1.0
    for result in results:
        config, metrics = result.config["trial"], result.metrics or {}
        if config["point"] != point:
            continue
        score = metrics.get("map50_95_full")
        record = {"number": config["number"], "plan": config["plan"], "map50_95": score}
        if result.error is not None:
            log.warning("%s trial %d failed: %s", point, config["number"], result.error)
            record["stopped"] = f"failed: {result.error}"
        elif score is None:
            record["stopped"] = metrics.get("stopped", "another trial of this point was ahead")
        elif score > best_score:
            best, best_score = (config, training_file(trainings, config)), score
        summary.append(record)
    if best is None:
        log.warning("%s: no trial ended well; it is not recovered", point)
    return Trials(sorted(summary, key=lambda record: int(record["number"])), best)
