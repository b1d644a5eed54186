"""`paretrim recover RUN`: fine-tune points of a front with Ray Tune, and put them back into it.

The search's own files are the source and stay as they are: the journal is only read, the front as
the search left it is copied to `recover/front.csv` before the first recovered point is added. What
is recovered lies in `models/ID/` and, one JSON a point, in `recover/points/`; front.csv, picks.json
and the report are made anew from both, each in one rename. So a recovery may be killed at any
moment, and goes on where it was when the same command is given again.

    runs/search/exp/recover/
        front.csv           the front of the search
        points/p03r.json    a recovered point: its score and where it came from
        tune-0123abcd/      Ray Tune's state and checkpoints, one folder a plan
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from rich.console import Console

from evaluators.dataset import Dataset, load_dataset
from evaluators.demo import demo_dataset
from evaluators.dense import as_input
from evaluators.evaluator import SUBSET_IMAGES, Evaluator
from evaluators.score import Failed, Score
from evaluators.training.files import save_trained
from evaluators.training.lsq import Lsq
from evaluators.training.method import Bits, Method
from evaluators.training.nipq import Nipq
from evaluators.training.slimming import VARIANTS, Slimming, Variant
from evaluators.training.surgery import Surgery
from evaluators.training.trainer import DivergedError, Plan, Trained, Training
from evaluators.training.validate import Validation
from evaluators.training.zeros import KeepZeros
from hw_models.errors import CorruptRunError, InputError
from search.actors import start_ray
from search.deliver import TOLERANCE, make_recipe
from search.explorer import Session
from search.front import Point, pareto
from search.ledger import Ledger, Outcome, Task
from search.outputs import Result, describe_pick, front_table, write_outputs
from search.problem import CALIBRATION_IMAGES, Problem, accuracy, prepare
from search.progress import logging_to, progress_bar, start_logging
from search.report import write_report
from search.run_folder import RunFolder, write_whole
from search.study import score_dense
from spaces.candidate import Candidate
from spaces.export import OnnxDetector, export_onnx
from spaces.model import Detector
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.grid import ActivationScales, is_quantized

log = logging.getLogger(__name__)

METHOD = "recover"  # in the column `method` of front.csv
IMAGES_SEEN = 8000  # default length of a training: minutes on a CPU core
DEMO_TRAINING_IMAGES = 512
STEPS_AN_EPOCH = 12  # at least, as far as batches of `SMALLEST_BATCH` allow
SMALLEST_BATCH, LARGEST_BATCH = 4, 16
TRIALS_PER_GPU = 4
GRACE_PERCENT = 50  # of its training that each trial gets before it may be stopped
CHECKED_IMAGES = 4  # on which an exported file is compared with the network, number by number
PAYS_FROM_PERCENT = 75  # of its training that a trial gets to be as good as no training
PAYS_MARGIN = 0.02  # of mAP50-95 that it may still lack then

ROUNDINGS: dict[str, Callable[[Bits, ActivationScales | None], Method]] = {
    "lsq": Lsq,
    "nipq": Nipq,
}
"""How layers of few bits are trained."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """Training-time methods.

    Attributes:
        rounding: How layers of few bits are trained, a key of `ROUNDINGS`.
        splice: Whether sparse layers may get removed weights back in place of others.
        slimming: How batch-norm scales are pulled to zero, a variant of `Slimming`, or None.
    """

    rounding: str = "lsq"
    splice: bool = False
    slimming: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for.

    Attributes:
        points: Ids of the front, or `dense`; empty = the picks.
        trials: Trainings a point.
        epochs: Of the longest training; None = as many as `IMAGES_SEEN` images make.
        treatment: Training-time methods.
        labels: Whether the labels of the training images are used.
        seed: Of the trials' settings and the trainings.
    """

    points: tuple[str, ...] = ()
    trials: int = 2
    epochs: int | None = None
    treatment: Treatment = Treatment()
    labels: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A point before it is trained; travels to the trials.

    Attributes:
        student: Sliced and refit, not rounded.
        bits: Of the candidate's convolutions.
        scales: Activation scales of the student, where it needs any.
        patterns: Sparsity pattern by convolution.
        floor: mAP50-95 that the point has without training, on `SUBSET_IMAGES`.
    """

    student: Detector
    bits: Bits
    scales: ActivationScales | None
    patterns: dict[str, str]
    floor: float

    def methods(self, treatment: Treatment) -> list[Method]:
        """Return what the point is trained with."""
        methods: list[Method] = []
        if self.patterns and treatment.splice:
            methods.append(Surgery(self.patterns))
        elif self.patterns:
            methods.append(KeepZeros(self.patterns))
        if treatment.slimming is not None:
            methods.append(Slimming(cast("Variant", treatment.slimming)))
        rounded = {n: b for n, b in self.bits.items() if is_quantized(b[0]) or is_quantized(b[1])}
        if rounded:
            methods.append(ROUNDINGS[treatment.rounding](rounded, self.scales))
        return methods


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """What all trials share."""

    starts: dict[str, Start]
    teacher: Detector
    training: Dataset
    validation: Dataset
    treatment: Treatment

    def begin(self, config: dict[str, Any]) -> Training:
        """Return the training of a trial's configuration, at its beginning."""
        start = self.starts[config["point"]]
        plan = Plan(**config["plan"])
        methods = start.methods(self.treatment)
        return Training(start.student, self.teacher, self.training, plan, methods)


def recover(folder: Path, wish: Wish, console: Console) -> None:
    """Fine-tune points of a run and put them into its front.

    Raises:
        InputError: No finished run lies there, a point is unknown, or an option is wrong.
        CorruptRunError: The run's files contradict each other, or a file is not what was trained.
    """
    start_logging(console)
    _check(wish)
    run = RunFolder(folder)
    _check_folder(run)
    problem = prepare(run.read_settings())
    with (
        logging_to(run.log),
        Ledger(run.journal, problem.protocol) as ledger,
        progress_bar(console) as progress,
    ):
        found = read_result(run, problem, Session(ledger, _NoPool(), progress))
        chosen = choose(found, wish.points)
        evaluator = problem.build()
        payload = _payload(problem, evaluator, chosen, wish)
        configs = trial_configs(chosen, len(payload.training), wish)
        best = tune_points(run, payload, configs)
        for point in chosen:
            if point.id in best:
                deliver(run, problem, evaluator, point, payload, *best[point.id])
        result = merge(run, problem, found)
        write_outputs(run, problem, result)
        write_report(run, problem, result, explored(run, problem, ledger))
    console.print(front_table(problem, result))
    for limit in result.limits:
        console.print(describe_pick(result, limit), style="bold")
    console.print(f"Report:  {run.report}", f"Models:  {run.path / 'models'}", sep="\n")


def _check(wish: Wish) -> None:
    for option, value, lowest in (("--trials", wish.trials, 1), ("--epochs", wish.epochs, 1)):
        if value is not None and value < lowest:
            raise InputError(f"{option} {value}: expected at least {lowest}.")
    for option, name, known in (
        ("--rounding", wish.treatment.rounding, tuple(ROUNDINGS)),
        ("--slimming", wish.treatment.slimming, VARIANTS),
    ):
        if name is not None and name not in known:
            raise InputError(f"{option} {name}: expected one of {', '.join(known)}.")


def _check_folder(run: RunFolder) -> None:
    """Refuse what is no finished run."""
    for path in (run.study, run.journal, run.front, run.picks):
        if not path.is_file():
            raise InputError(
                f"{run.path}: expected the folder of a finished search, but it has no {path.name}.",
                f"Finish the search first (--resume {run.path}), or give another folder.",
            )


class _NoPool:
    """Evaluates nothing: all that is asked for must be in the journal."""

    size = 0

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield nothing.

        Raises:
            InputError: If anything is asked for.
        """
        missing = list(tasks)
        if missing:
            raise InputError(
                f"The journal lacks {len(missing)} results that front.csv is made of.",
                "Finish the search first, with --resume.",
            )
        return iter(())

    def close(self) -> None:
        """Nothing to let go of."""


# What the search left


def journal_candidates(run: RunFolder) -> dict[str, Candidate]:
    """Return every candidate that the journal names, by digest."""
    lines = run.journal.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[1:]]
    # a line without one is a measurement on a device
    named = (record["candidate"] for record in records if "candidate" in record)
    candidates = (Candidate.from_dict(record) for record in named)
    return {candidate.digest: candidate for candidate in candidates}


def read_result(run: RunFolder, problem: Problem, session: Session) -> Result:
    """Return the front of the search, from its own files.

    Raises:
        CorruptRunError: If front.csv has a point that the journal does not know.
    """
    kept = run.path / "recover" / "front.csv"
    rows = _rows(run.front)
    if any(row["method"] == METHOD for row in rows):  # recovered before: take the search's own
        if not kept.is_file():
            raise CorruptRunError(
                f"{run.front} has recovered points, but {kept}, the front before them, is gone.",
                f"Write the front anew with --resume {run.path}, then recover again.",
            )
        rows = _rows(kept)
    else:
        kept.parent.mkdir(exist_ok=True)
        write_whole(kept, run.front.read_text(encoding="utf-8"))
    if any(row.get("measured_ms") for row in rows):
        log.warning(
            "the latencies of %s that a device measured are left out of the merged front: the"
            " recovered files were not timed; they are still in %s",
            run.front,
            kept,
        )
    candidates = journal_candidates(run)
    dense = score_dense(problem, session)
    front, exported = [], {}
    for row in rows:
        if row["map50_95_exported"]:
            exported[row["id"]] = float(row["map50_95_exported"])
        if row["id"] == "dense":
            continue
        score = session.ledger.results.get((row["digest"], "full"))
        if row["digest"] not in candidates or not isinstance(score, Score):
            raise CorruptRunError(
                f"{run.front}: the point {row['id']} is not in the journal.",
                f"Write the front anew with --resume {run.path}.",
            )
        candidate = candidates[row["digest"]]
        front.append(Point(row["id"], row["method"], candidate, problem.cost(candidate), score))
    limits = problem.limits
    if problem.settings.max_drop is not None:
        floor = accuracy(dense[0].score) - problem.settings.max_drop
        limits = tuple(replace(limit, map50_95=floor) for limit in limits)
    return Result(tuple(front), tuple(dense), limits, exported)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"id", "digest", "method", "map50_95_exported"} <= rows[0].keys():
        raise CorruptRunError(
            f"{path}: expected a table with id, method, map50_95_exported and digest.",
            "Write it anew with --resume.",
        )
    return rows


def choose(found: Result, ids: Sequence[str]) -> list[Point]:
    """Return the points to recover: those named, or the picks.

    Raises:
        InputError: If a point is unknown, or there is nothing to recover.
    """
    known = {point.id: point for point in (*found.front, found.dense[0])}
    for name in ids:
        if name not in known:
            raise InputError(
                f"--point {name}: the front has no such point; it has {', '.join(known)}.",
                "Ids are in front.csv of the run.",
            )
    if ids:
        return [known[name] for name in dict.fromkeys(ids)]
    picks = {p.id: p for limit in found.limits if (p := found.pick(limit)) is not None}
    if not picks:
        raise InputError(
            "No point of the front meets a budget, so there is no pick to recover.",
            "Name points with --point.",
        )
    return list(picks.values())


def explored(run: RunFolder, problem: Problem, ledger: Ledger) -> list[Point]:
    """Return every point the search scored on the subset of images, for the picture."""
    points = []
    for digest, candidate in journal_candidates(run).items():
        score = ledger.results.get((digest, "subset"))
        if isinstance(score, Score):
            points.append(Point("", "", candidate, problem.cost(candidate), score))
    return points


# Training


def _training_data(problem: Problem) -> Dataset:
    if problem.settings.data == "demo":
        return demo_dataset("train", DEMO_TRAINING_IMAGES)
    return load_dataset(problem.settings.data, "train")


def _payload(
    problem: Problem, evaluator: Evaluator, points: Sequence[Point], wish: Wish
) -> Payload:
    training = _training_data(problem)
    images = training.subset(CALIBRATION_IMAGES)
    starts = {}
    for point in points:
        bits = {layer: (weight, act) for layer, weight, act in point.candidate.bits}
        unrounded = replace(point.candidate, bits=())
        if wish.treatment.splice:  # starts dense and chooses its own masks
            unrounded = replace(unrounded, patterns=())
        student = evaluator.build(unrounded)
        few = Validation(problem.validation.subset(SUBSET_IMAGES), student.imgsz)
        scales = None
        if any(is_quantized(act) for _, act in bits.values()):
            scales = calibrate_activations(student, as_input(images.squares(student.imgsz)))
        starts[point.id] = Start(
            student,
            bits,
            scales,
            dict(point.candidate.patterns),
            few.measure(evaluator.build(point.candidate).net).map50_95,
        )
    return Payload(starts, problem.detector, training, problem.validation, wish.treatment)


def trial_configs(points: Sequence[Point], images: int, wish: Wish) -> list[dict[str, Any]]:
    """Return the settings of all trials, in turn for each point.

    First the default; then, where labels are used, the same without distillation (which holds a
    student back that could outgrow its teacher); then random variations.
    """
    epochs = wish.epochs or max(1, round(IMAGES_SEEN / images))
    batch = min(LARGEST_BATCH, max(SMALLEST_BATCH, images // STEPS_AN_EPOCH))
    random = np.random.default_rng(wish.seed)
    configs = []
    for number in range(wish.trials):
        plan = Plan(epochs, labels=float(wish.labels), batch=batch, seed=wish.seed)
        if number == 1 and wish.labels:
            plan = replace(plan, distillation=0.0)
        elif number > 0:
            weights = [0.0, 0.3, 1.0, 3.0] if wish.labels else [1.0]
            plan = replace(
                plan,
                epochs=int(random.choice([epochs, max(1, epochs // 2)])),
                learning_rate=float(np.exp(random.uniform(np.log(3e-4), np.log(3e-3)))),
                distillation=float(random.choice(weights)),
            )
        configs += [{"point": p.id, "number": number, "plan": asdict(plan)} for p in points]
    return configs


def train_trial(config: dict[str, Any], payload: Payload) -> None:
    """Train one point with one setting; runs in a process of Ray Tune.

    Reports after each epoch, with a checkpoint; a training that leaves the finite numbers, or is
    no better than no training when half of it is over, says so and ends.
    """
    torch.set_num_threads(1)
    config = config["trial"]
    start = payload.starts[config["point"]]
    training = payload.begin(config)
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            training.load(Path(folder) / "training.ckpt")
    epochs = config["plan"]["epochs"]
    few = Validation(payload.validation.subset(SUBSET_IMAGES), start.student.imgsz)
    while training.epoch < epochs:
        try:
            report = training.run_epoch()
            last = report.epoch == epochs
            simulated = training.result().simulated().net
        except DivergedError as error:
            tune.report({"map50_95": 0.0, "percent": 100, "stopped": f"diverged: {error}"})
            return
        found = few.measure(simulated)
        values = {
            "map50_95": found.map50_95,
            "percent": 100 * report.epoch // epochs,
            "epoch": report.epoch,
            "loss": report.loss,
            "seconds": report.seconds,
        }
        if last:
            everything = Validation(payload.validation, start.student.imgsz)
            values["map50_95_full"] = everything.measure(simulated).map50_95
        if values["percent"] in range(PAYS_FROM_PERCENT, 100) and (
            found.map50_95 < start.floor - PAYS_MARGIN
        ):
            reason = f"mAP50-95 {found.map50_95:.3f}, without training {start.floor:.3f}"
            tune.report({**values, "percent": 100, "stopped": f"does not pay: {reason}"})
            return
        with tempfile.TemporaryDirectory() as temporary:
            training.save(Path(temporary) / "training.ckpt")
            tune.report(values, checkpoint=tune.Checkpoint.from_directory(temporary))


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


def tune_points(
    run: RunFolder, payload: Payload, configs: Sequence[dict[str, Any]]
) -> dict[str, tuple[dict[str, Any], Path]]:
    """Carry out all trials, or go on with those of a killed driver.

    Returns:
        By point the configuration and last checkpoint of its best finished trial.

    Raises:
        KeyboardInterrupt: If the trials were interrupted.
    """
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends here, not in Tune
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
    start_ray()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set one of its own
    folder = (run.path / "recover").resolve()
    name = f"tune-{plan_digest(payload, configs)}"
    gpus = ray.cluster_resources().get("GPU", 0.0)
    trainable = tune.with_resources(
        tune.with_parameters(train_trial, payload=payload),
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
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_EpochLines()],
                verbose=0,
            ),
        )
    log.info("%d trials of %d points", len(configs), len(payload.starts))
    return best_trials(tuner.fit())


def best_trials(results: Any) -> dict[str, tuple[dict[str, Any], Path]]:
    """Return by point what its best trial was and where its checkpoint lies."""
    best: dict[str, tuple[float, dict[str, Any], Path]] = {}
    for result in results:
        config = result.config["trial"]
        metrics = result.metrics or {}
        if result.error is not None:
            log.warning("%s trial %d failed: %s", config["point"], config["number"], result.error)
        score = metrics.get("map50_95_full")
        if score is None or result.checkpoint is None:
            continue
        if score > best.get(config["point"], (-1.0,))[0]:
            best[config["point"]] = score, config, Path(result.checkpoint.path)
    return {point: (config, path) for point, (_, config, path) in best.items()}


# Back into the run


def deliver(
    run: RunFolder,
    problem: Problem,
    evaluator: Evaluator,
    point: Point,
    payload: Payload,
    config: dict[str, Any],
    checkpoint: Path,
) -> None:
    """Export what a trial ended with, check the file, and record the recovered point.

    Raises:
        CorruptRunError: If the exported file is not as good as the network it was made of.
    """
    training = payload.begin(config)
    training.load(checkpoint / "training.ckpt")
    trained = training.result()
    recovered = _recovered_point(problem, point, trained)
    final = run.path / "models" / recovered.id
    folder = final.with_name(f".{recovered.id}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_trained(trained, folder / "weights.safetensors")
    model = folder / "model.onnx"
    bits = {layer: (weight, act) for layer, weight, act in recovered.candidate.bits}
    export_onnx(trained.detector, recovered.candidate.imgsz, model, bits, trained.grids.scales)
    everything = Validation(problem.validation, recovered.candidate.imgsz)
    simulated = trained.simulated()
    accurate = everything.measure(simulated.net)
    file = evaluator.evaluate_onnx(model, recovered.candidate.imgsz)
    _check_file(recovered.id, file, accurate.map50_95)
    assert isinstance(file, Score)
    score = replace(file, map50_95=accurate.map50_95, map50=accurate.map50)
    recovered = replace(recovered, score=score)
    recipe = make_recipe(problem, recovered)
    recipe["exported"] = {
        "map50_95": accuracy(file),
        "bytes": model.stat().st_size,
        "largest_difference": _largest_difference(problem, simulated, model),
    }
    recipe["recovered"] = {
        "from": point.id,
        "map50_95_before": accuracy(point.score),
        "plan": config["plan"],
        "treatment": asdict(payload.treatment),
        "weights": "weights.safetensors",
        "weights_digest": trained.detector.digest,
        "training_digest": payload.training.digest,
    }
    write_whole(folder / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    folder.replace(final)
    record = {
        "id": recovered.id,
        "from": point.id,
        "protocol": problem.protocol,
        "candidate": recovered.candidate.to_dict(),
        "score": score.to_dict(),
        "exported": accuracy(file),
    }
    records = run.path / "recover" / "points"
    records.mkdir(exist_ok=True)
    write_whole(records / f"{recovered.id}.json", json.dumps(record, indent=1) + "\n")
    log.info(
        "recovered %s: mAP50-95 %.4f (before %.4f, file %.4f)",
        recovered.id,
        accuracy(score),
        accuracy(point.score),
        accuracy(file),
    )


def _recovered_point(problem: Problem, point: Point, trained: Trained) -> Point:
    """Return the point with the bits that its training left it with; its score is still old."""
    bits = tuple(
        (layer, *trained.grids.bits.get(layer, (weight, act)))
        for layer, weight, act in point.candidate.bits
    )
    candidate = replace(point.candidate, bits=bits)
    return Point(f"{point.id}r", METHOD, candidate, problem.cost(candidate), point.score)


def _check_file(name: str, file: Score | Failed, map50_95: float) -> None:
    if isinstance(file, Failed):
        raise CorruptRunError(f"{name}: the exported file does not work: {file.message}.")
    gap = accuracy(file) - map50_95
    if abs(gap) > TOLERANCE:
        raise CorruptRunError(
            f"{name}: the exported file has mAP50-95 {accuracy(file):.4f}, the network it was made"
            f" of {map50_95:.4f}; expected at most {TOLERANCE} between them.",
            "This is a fault of the export; please report it with the recipe.",
        )


def _largest_difference(problem: Problem, simulated: Detector, model: Path) -> float:
    """Return the largest difference of a class score on a few images, file against network."""
    images = as_input(problem.validation.subset(CHECKED_IMAGES).squares(simulated.imgsz))
    file = OnnxDetector(model)
    with torch.inference_mode():
        expected = simulated.net(images)[:, 4:]
    found = np.concatenate([file(x[None].contiguous().numpy()) for x in images])[:, 4:]
    return float(np.abs(found - expected.numpy()).max())


def merge(run: RunFolder, problem: Problem, found: Result) -> Result:
    """Return the front of the search and of everything recovered from it.

    A recovered point costs what the point it came from costs; whichever is less accurate leaves
    the front.
    """
    sources = {point.id for point in (*found.front, found.dense[0])}
    points, exported = list(found.front), dict(found.exported)
    for path in sorted((run.path / "recover" / "points").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            candidate = Candidate.from_dict(record["candidate"])
            score = Score.from_dict(record["score"])
            if record["protocol"] != problem.protocol or record["from"] not in sources:
                log.warning("%s: recovered from another search, left out", path)
                continue
            exported[record["id"]] = float(record["exported"])
            name = str(record["id"])
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise CorruptRunError(
                f"{path}: not the record of a recovered point ({error!r}).", "Remove it."
            ) from error
        points.append(Point(name, METHOD, candidate, problem.cost(candidate), score))
    front = pareto(points, lambda point: problem.objectives(point.cost, point.score))
    front.sort(key=lambda point: point.cost.latency_ms)
    return replace(found, front=tuple(front), exported=exported)
