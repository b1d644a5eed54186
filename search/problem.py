"""What is to be solved: the model, the data, the space, the target and its budgets, all resolved.

`prepare` turns validated settings into a `Problem`, or says which of them is wrong. Nothing is
evaluated here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from evaluators.database import Database
from evaluators.dataset import Dataset, check_names, load_dataset
from evaluators.demo import demo_dataset, demo_detector
from evaluators.dense import as_input
from evaluators.device import CPU
from evaluators.evaluator import Evaluator
from evaluators.score import Score
from hw_models.cost import Cost, CostBatch, CostModel
from hw_models.device import DeviceProfile, load_profile
from hw_models.errors import InputError
from search.envelope import on_envelope
from search.feasibility import check_feasible
from search.settings import Limits, Settings, resolve_limits
from spaces.candidate import Candidate
from spaces.compress import Ranking
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.saliency import Scores, order, score
from spaces.space import SearchSpace, bit_options, droppable, keep_levels, pattern_options
from spaces.sparsity.names import parse_pattern

log = logging.getLogger(__name__)

Genomes = npt.NDArray[np.int64]

GPU_FROM_MACS = 20e9
"""Of the dense network, from which evaluations go to GPUs: a guess, see docs/cluster.md."""
PROTOCOL = "5"  # to be counted up when the same candidate would get another score
CALIBRATION_IMAGES = 64
DEMO_VALIDATION_IMAGES = 128


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything a search needs and nothing it changes.

    Attributes:
        settings: As the user gave them.
        detector: The dense model.
        space: What may vary.
        sizes: Input sizes to choose from, largest first.
        model: Prices candidates on the target.
        limits: One entry a latency budget, tightest first, without accuracy floor.
        calibration: Images without labels, to measure the dense model on.
        validation: Images accuracy is measured on.
        build: Makes an evaluator, in this process or an actor.
        use_gpus: Whether evaluators use GPUs where there are any.
        protocol: Digest of all that decides a score; scores of equal protocol are comparable.
    """

    settings: Settings
    detector: Detector
    space: SearchSpace
    sizes: tuple[int, ...]
    model: CostModel
    limits: tuple[Limits, ...]
    calibration: Dataset
    validation: Dataset
    build: Callable[[], Evaluator]
    use_gpus: bool
    protocol: str

    def dense(self, imgsz: int | None = None) -> Candidate:
        """Return the uncompressed model, at its largest input size if no other is given."""
        return uncompressed(self.space, imgsz or self.sizes[0])

    def limits_above(self, dense: Score) -> tuple[Limits, ...]:
        """Return the limits with the accuracy floor of `--max-drop` below the dense model's."""
        if self.settings.max_drop is None:
            return self.limits
        floor = accuracy(dense) - self.settings.max_drop
        return tuple(replace(limit, map50_95=floor) for limit in self.limits)

    def cost(self, candidate: Candidate) -> Cost:
        """Predict what a candidate costs on the target, layer by layer."""
        return self.model.predict(self.space.workload(candidate))

    def costs(self, genomes_NV: Genomes) -> CostBatch:
        """Predict the costs of many genomes [N, V] at once."""
        return self.model.predict_batch(self.space.workloads(genomes_NV))

    def latency_ms(self, genomes_NV: Genomes) -> npt.NDArray[np.float64]:
        """Predict the latency [N] of many genomes [N, V]."""
        return np.asarray(self.costs(genomes_NV).latency_ms, dtype=np.float64)

    @property
    def objective_count(self) -> int:
        """Number of objectives M."""
        return 2 + (self.settings.energy is not None) + (self.settings.size is not None)

    def objectives(self, cost: Cost, score: Score) -> tuple[float, ...]:
        """Return what is minimised: accuracy loss, latency, and energy and size where asked."""
        return self.objectives_of(accuracy(score), cost.latency_ms, cost.energy_mj, cost.size_bytes)

    def objectives_of(
        self, map50_95: float, latency_ms: float, energy_mj: float, size_bytes: float
    ) -> tuple[float, ...]:
        """Return the objectives of a point given by its values."""
        values = [1.0 - map50_95, latency_ms]
        if self.settings.energy is not None:
            values.append(energy_mj)
        if self.settings.size is not None:
            values.append(size_bytes)
        return tuple(values)


def uncompressed(space: SearchSpace, imgsz: int) -> Candidate:
    """Return the dense model at an input size; a space of fixed bits or patterns lacks it."""
    densest = space.dense
    bits = tuple((layer, *space.baseline) for layer, _, _ in densest.bits)
    return replace(densest, imgsz=imgsz, bits=bits, patterns=())


def accuracy(score: Score) -> float:
    """Return the mAP50-95 of a score of a rung that measures it."""
    assert score.map50_95 is not None, f"rung {score.rung} has no mAP"
    return score.map50_95


def prepare(settings: Settings) -> Problem:
    """Load and check everything.

    Raises:
        InputError: One of the settings is wrong.
        InfeasibleError: No candidate can meet a budget.
    """
    problem = load_problem(settings)
    check_within_reach(problem, problem.limits)
    return problem


def check_within_reach(problem: Problem, limits: Sequence[Limits]) -> None:
    """Make sure that some candidate meets each limit; where it is measured, that is seen then.

    Raises:
        InfeasibleError: With the lowest reachable value, what holds it, and what would help.
    """
    if not problem.settings.measure_on:
        check_feasible(problem.model, problem.space, limits)


def load_problem(settings: Settings) -> Problem:
    """Load everything; whether the budgets can be met is not looked at.

    Raises:
        InputError: One of the settings is wrong.
    """
    detector = _load_weights(settings)
    calibration, validation = _load_data(settings)
    if settings.weights.endswith((".yaml", ".yml")):  # untrained: has the classes of the data set
        detector = load_detector(settings.weights, names=validation.names)
    check_names(validation, detector.names)
    profile = load_profile(settings.target)
    model = CostModel(profile, settings.power_mode)
    imgsz = tuple(sorted(set(settings.imgsz or (detector.imgsz,)), reverse=True))
    network = analyse(detector, imgsz[0], ignore=settings.ignore)
    base = profile.baseline_bits
    space = on_envelope(
        model,
        SearchSpace(
            network,
            imgsz,
            levels=None if settings.prune == "none" else keep_levels(network, profile.granule),
            bits=bit_options(network, useful_bits(profile, settings), outputs=profile.converts),
            baseline=(base, base),
            patterns=_patterns(network, profile, settings),
            depth=droppable(network) if settings.depth else (),
            converts=profile.converts,
        ),
    )
    dense = space.workload(uncompressed(space, imgsz[0]))
    use_gpus = dense.macs >= GPU_FROM_MACS
    criterion = "l2" if settings.prune == "none" else settings.prune
    build = partial(
        Evaluator,
        detector=detector,
        network=network,
        ranking=_ranking(detector, network, criterion, calibration, imgsz[0]),
        calibration=calibration,
        validation=validation,
        device=None if use_gpus else CPU,
    )
    return Problem(
        settings=settings,
        detector=detector,
        space=space,
        sizes=imgsz,
        model=model,
        limits=resolve_limits(settings, model.predict(dense)),
        calibration=calibration,
        validation=validation,
        build=build,
        use_gpus=use_gpus,
        protocol=_protocol(detector, calibration, validation, criterion, imgsz[0]),
    )


def _ranking(
    detector: Detector, network: Network, criterion: str, calibration: Dataset, imgsz: int
) -> Ranking:
    """Order the channels of each group, by scores that another search may have left behind."""

    def measure() -> Scores:
        log.info("scoring %d channels by %s", network.sizes.sum(), criterion)
        return score(detector, network, criterion, as_input(calibration.squares(imgsz)))

    key: list[str | int] = [detector.digest, calibration.digest, imgsz, "scores", criterion]
    key += [group.name for group in network.groups]
    return order(Database().recall(key, measure))


def _patterns(
    network: Network, profile: DeviceProfile, settings: Settings
) -> dict[str, tuple[str, ...]]:
    """Return the patterns each layer may take; a single one under `uniform` is that of all."""
    names = useful_patterns(profile, settings)
    options = pattern_options(network, names)
    if settings.method == "uniform" and settings.pattern and len(names) == 1:
        return {layer: patterns[-1:] for layer, patterns in options.items()}
    return options


def _load_weights(settings: Settings) -> Detector:
    if settings.weights == "demo":
        return demo_detector()
    return load_detector(settings.weights, trust_checkpoint=settings.trust_checkpoint)


def _load_data(settings: Settings) -> tuple[Dataset, Dataset]:
    """Return calibration images (no labels needed) and validation images."""
    if settings.data == "demo":
        validation = demo_dataset("val", DEMO_VALIDATION_IMAGES)
        return demo_dataset("train", CALIBRATION_IMAGES), validation
    validation = load_dataset(settings.data, "val")
    try:
        calibration = load_dataset(settings.data, "train")
    except InputError as error:
        log.warning("calibrating on validation images, without their labels: %s", error)
        calibration = validation
    return calibration.subset(CALIBRATION_IMAGES), validation


def useful_bits(profile: DeviceProfile, settings: Settings) -> list[tuple[int, int]]:
    """Return the (weight_bits, act_bits) pairs a layer may take, densest first.

    Without `--bits`, 8 bits are offered where the target executes them, or stores them and a size
    budget is asked; what no asked objective could gain from is left out and said so.

    Raises:
        InputError: A pair the target cannot run.
    """
    base = profile.baseline_bits
    if settings.bits == (0,):
        return [(base, base)]
    given = settings.bits or settings.act_bits
    if (
        settings.method == "uniform"
        and given
        and max(map(len, (settings.bits, settings.act_bits))) == 1
    ):
        # A single value is applied everywhere: nothing varies, and what is not given stays.
        return _runnable(profile, [((*settings.bits, base)[0], (*settings.act_bits, base)[0])])
    if settings.bits or settings.act_bits:
        pairs = {
            (weight, act)
            for weight in (settings.bits or (base, 8))
            for act in (settings.act_bits or (base, 8))
        } | {(base, base)}
        return _runnable(profile, sorted(pairs, reverse=True))
    if profile.execution(8, 8) == "executed":
        return [(base, base), (8, 8)]
    if settings.size is not None and profile.execution(8, base) == "stored only":
        return [(base, base), (8, base)]
    log.info(
        "bits: all layers stay at %d, because %s only stores 8 bits: smaller, not faster "
        "(ask with --size or --bits 8,%d)",
        base,
        profile.name,
        base,
    )
    return [(base, base)]


def _runnable(profile: DeviceProfile, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pairs; refuse those that the target cannot run."""
    for weight, act in pairs:
        if profile.execution(weight, act) == "illegal":
            raise InputError(
                f"{profile.name} cannot run {weight}-bit weights with {act}-bit activations.",
                "Leave --bits and --act-bits out to get what it can run.",
            )
    return pairs


def useful_patterns(profile: DeviceProfile, settings: Settings) -> list[str]:
    """Return the sparsity patterns a layer may take beside dense.

    Without `--pattern`, those that the target executes with a known gain. What it only stores makes
    a model smaller, not faster, and has to be asked for.

    Raises:
        InputError: An unknown pattern, or one the target cannot run.
    """
    if not settings.pattern:
        return [name for name in profile.pattern_gains if profile.patterns[name] == "executed"]
    if settings.pattern == ("none",):
        return []
    names = [name for name in settings.pattern if name != "dense"]
    for name in names:
        treatment = profile.patterns[parse_pattern(name).priced_as]
        if treatment == "illegal":
            raise InputError(
                f"--pattern {name}: {profile.name} cannot run it (2:4 needs the sparse tensor cores"
                " of Ampere); expected one that it executes or stores.",
                "Leave --pattern out to get what it can run.",
            )
        if treatment == "stored only":
            log.info("pattern %s: %s only stores it: smaller, not faster", name, profile.name)
    return names


def _protocol(
    detector: Detector, calibration: Dataset, validation: Dataset, criterion: str, ranked_at: int
) -> str:
    """Return the digest of all that decides a score beside the candidate; no device is in it."""
    parts = [PROTOCOL, detector.digest, calibration.digest, validation.digest, criterion, ranked_at]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cheapest(problem: Problem) -> Cost:
    """Return the cost of the candidate with every variable at its cheapest level."""
    upper_V = np.asarray(problem.space.upper)
    return problem.cost(problem.space.decode(upper_V))
