"""One training of one point: where it starts, what varies, and the process that trains it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ray import tune
from torch import Tensor

from evaluators.dataset import Dataset, load_dataset
from evaluators.demo import demo_dataset
from evaluators.dense import as_input
from evaluators.evaluator import SUBSET_IMAGES, Evaluator
from evaluators.training.gap import GlobalReconstruction
from evaluators.training.gradual import GradualPruning
from evaluators.training.method import Bits, Method
from evaluators.training.slimming import Slimming, Variant
from evaluators.training.surgery import Surgery
from evaluators.training.trainer import DivergedError, Plan, Training
from evaluators.training.validate import Validation
from evaluators.training.zeros import KeepZeros
from hw_models.errors import InputError
from search.finished import Finished
from search.front import RECOVERED, Point
from search.problem import CALIBRATION_IMAGES, Problem, accuracy
from search.recover.weights import load_recovered
from search.recover.wish import ROUNDINGS, Treatment, Wish
from spaces.model import Detector
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.grid import ActivationScales, is_quantized

IMAGES_SEEN = 8000  # default length of a training: minutes on a CPU core
DEMO_TRAINING_IMAGES = 512
STEPS_AN_EPOCH = 12  # at least, as far as batches of `SMALLEST_BATCH` allow
SMALLEST_BATCH, LARGEST_BATCH = 4, 16
PAYS_FROM_PERCENT = 75  # of its training that a trial gets to be as good as no training
PAYS_MARGIN = 0.02  # of mAP50-95 that it may still lack then
LARGEST_RATE = 1e-3  # peak of AdamW's for a point that has lost `MUCH_LOST` of the dense mAP
MUCH_LOST = 0.2
SMALLEST_SHARE = 0.1  # of that rate
TINY = 1e-9
LAYERS_RATE = 1e-4  # peak of AdamW where layers learn their outputs: they are close already


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A point before it is trained; travels to the trials.

    Attributes:
        student: Sliced and refit, not rounded; dense where pruning is gradual.
        bits: Of the candidate's convolutions.
        scales: Activation scales of the student, where it needs any.
        patterns: Sparsity pattern by convolution.
        kept: Output channels of the dense model that each convolution still has.
        floor: mAP50-95 that the point has without training, on `SUBSET_IMAGES`.
        pruning: What prunes the student while it is trained, if anything does.
    """

    student: Detector
    bits: Bits
    scales: ActivationScales | None
    patterns: dict[str, str]
    kept: dict[str, Tensor]
    floor: float
    pruning: GradualPruning | None = None

    def methods(self, treatment: Treatment, teacher: Detector) -> list[Method]:
        """Return what the point is trained with."""
        methods: list[Method] = [] if self.pruning is None else [self.pruning]
        if treatment.layers:
            methods.append(GlobalReconstruction(teacher.net, self.kept))
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
        methods = start.methods(self.treatment, self.teacher)
        return Training(start.student, self.teacher, self.training, plan, methods)


def _training_data(problem: Problem) -> Dataset:
    if problem.settings.data == "demo":
        return demo_dataset("train", DEMO_TRAINING_IMAGES)
    return load_dataset(problem.settings.data, "train")


def make_payload(
    finished: Finished, evaluator: Evaluator, points: Sequence[Point], wish: Wish
) -> Payload:
    """Build every point and what all trials share.

    Raises:
        InputError: The data set has no training images.
    """
    problem = finished.problem
    training = problem.calibration if wish.treatment.layers else _training_data(problem)
    starts = {
        point.id: _start(finished, evaluator, point, training, wish.treatment) for point in points
    }
    return Payload(starts, problem.detector, training, problem.validation, wish.treatment)


def _start(
    finished: Finished,
    evaluator: Evaluator,
    point: Point,
    training: Dataset,
    treatment: Treatment,
) -> Start:
    """Return where the trainings of a point start: a recovered one goes on from its weights.

    Raises:
        InputError: It is to be pruned gradually, and is pruned already or has sparse layers.
    """
    candidate, problem = point.candidate, finished.problem
    unrounded = replace(candidate, bits=())
    if treatment.splice:  # starts dense and chooses its own masks
        unrounded = replace(unrounded, patterns=())
    pruning = None
    if treatment.gradual:
        _check_prunable(point)
        student, untrained = problem.detector, evaluator.build(candidate).net
        student = replace(student, imgsz=candidate.imgsz)
        pruning = GradualPruning(evaluator.network, candidate, evaluator.ranking)
    elif point.method == RECOVERED:
        model = load_recovered(finished.run, problem, point)
        student, untrained = model.detector, model.simulated()
    else:
        student, untrained = evaluator.build(unrounded), evaluator.build(candidate).net
    few = Validation(problem.validation.subset(SUBSET_IMAGES), candidate.imgsz)
    bits = {layer: (weight, act) for layer, weight, act in candidate.bits}
    scales = None
    if any(is_quantized(act) for _, act in bits.values()):
        images = training.subset(CALIBRATION_IMAGES).squares(candidate.imgsz)
        scales = calibrate_activations(student, as_input(images))
    return Start(
        student=student,
        bits=bits,
        scales=scales,
        patterns=dict(candidate.patterns),
        kept=evaluator.kept(unrounded),
        floor=few.measure(untrained).map50_95,
        pruning=pruning,
    )


def _check_prunable(point: Point) -> None:
    """Refuse to prune gradually what is pruned already or has sparse layers.

    Raises:
        InputError: It is.
    """
    if point.method == RECOVERED or point.candidate.patterns:
        found = "was recovered" if point.method == RECOVERED else "has sparse layers"
        raise InputError(
            f"--gradual: {point.id} {found}; expected a point of the search with dense layers.",
            "Choose another --point, or leave --gradual out.",
        )


def default_rate(point: Point, dense: Point) -> float:
    """Return the peak learning rate of a point's default trial.

    What has lost little is close to where it should be, and large steps would first lose more.
    """
    lost = 1 - accuracy(point.score) / max(accuracy(dense.score), TINY)
    return LARGEST_RATE * min(1.0, max(SMALLEST_SHARE, lost / MUCH_LOST))


def trial_configs(rates: Mapping[str, float], images: int, wish: Wish) -> list[dict[str, Any]]:
    """Return the settings of all trials, in turn for each point.

    First the default; then, where labels are used, the same without distillation (which holds a
    student back that could outgrow its teacher); then random variations.

    Args:
        rates: Default learning rate of each point, by id.
        images: Training images.
        wish: What the user asked for.
    """
    epochs = wish.epochs or max(1, round(IMAGES_SEEN / images))
    batch = min(LARGEST_BATCH, max(SMALLEST_BATCH, images // STEPS_AN_EPOCH))
    random = np.random.default_rng(wish.seed)
    configs = []
    for number in range(wish.trials):
        plan = Plan(epochs, labels=float(wish.labels), batch=batch, seed=wish.seed)
        factor = 1.0
        if wish.treatment.layers:
            plan = replace(
                plan, labels=0.0, distillation=0.0, mosaic_until=0.0, norms_frozen_from=0.0
            )
            factor = 1.0 if number == 0 else _drawn_factor(random)
        elif number == 1 and wish.labels:
            plan = replace(plan, distillation=0.0)
        elif number > 0:
            weights = [0.0, 0.3, 1.0, 3.0] if wish.labels else [1.0]
            plan = replace(
                plan,
                epochs=int(random.choice([epochs, max(1, epochs // 2)])),
                distillation=float(random.choice(weights)),
            )
            factor = _drawn_factor(random)
        for point, default in rates.items():
            rate = factor * (LAYERS_RATE if wish.treatment.layers else default)
            settings = asdict(replace(plan, learning_rate=rate))
            configs.append({"point": point, "number": number, "plan": settings})
    return configs


def _drawn_factor(random: np.random.Generator) -> float:
    """Return what a learning rate is multiplied by: a third to three."""
    return float(np.exp(random.uniform(-np.log(3), np.log(3))))


def training_file(folder: Path, config: Mapping[str, Any]) -> Path:
    """Return the file that a trial of that configuration keeps its training in."""
    return folder / f"{config['point']}-trial-{config['number']}.ckpt"


def train_trial(config: dict[str, Any], payload: Payload, folder: Path) -> None:
    """Train one point with one setting, as far as it was not yet; runs in a process of Ray Tune.

    Reports after each epoch; a training that leaves the finite numbers, or is no better than no
    training when `PAYS_FROM_PERCENT` of it is over, says so and ends. What an epoch ended with is
    kept before it is reported, in a file that the next one replaces: Tune would delete a checkpoint
    that the state it has saved of itself still names, and a driver killed then lost the trial.

    Args:
        config: Point, number and plan, under "trial".
        payload: What all trials share.
        folder: Where the trials keep their trainings; all nodes see the same one.

    Raises:
        InputError: If the folder is not there, or the file in it is of another training.
    """
    torch.set_num_threads(1)
    config = config["trial"]
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder} on {platform.node()}, which trains a trial of"
            f" {config['point']}; expected one that all nodes of the cluster share.",
            "Copy the run to a shared folder and recover it there, or recover on one machine.",
        )
    training = payload.begin(config)
    file = training_file(folder, config)
    try:
        if file.exists():
            training.load(file)  # told again: the driver that was killed may not have heard of it
        else:
            _train(training, file)
        while not _tell(training, payload, config):
            _train(training, file)
    except DivergedError as error:
        tune.report({"map50_95": 0.0, "percent": 100, "stopped": f"diverged: {error}"})


def _train(training: Training, file: Path) -> None:
    training.run_epoch()
    training.save(file)


def _tell(training: Training, payload: Payload, config: dict[str, Any]) -> bool:
    """Report what the last epoch did, and return whether the trial is over."""
    start, epochs, report = payload.starts[config["point"]], config["plan"]["epochs"], training.last
    assert report is not None
    simulated = training.result().simulated().net

    def reached(data: Dataset) -> float:
        return Validation(data, start.student.imgsz).measure(simulated).map50_95

    values = {
        "map50_95": reached(payload.validation.subset(SUBSET_IMAGES)),
        "percent": 100 * report.epoch // epochs,
        "epoch": report.epoch,
        "loss": report.loss,
        "seconds": report.seconds,
    }
    if report.epoch == epochs:
        values["map50_95_full"] = reached(payload.validation)
    elif values["percent"] >= PAYS_FROM_PERCENT and values["map50_95"] < start.floor - PAYS_MARGIN:
        reason = f"mAP50-95 {values['map50_95']:.3f}, without training {start.floor:.3f}"
        values |= {"percent": 100, "stopped": f"does not pay: {reason}"}
    tune.report(values)
    return values["percent"] == 100
