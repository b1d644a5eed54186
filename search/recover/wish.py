"""What the user asked of a recovery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluators.training.drgs import Drgs
from evaluators.training.lsq import Lsq
from evaluators.training.method import Bits, Method
from evaluators.training.nipq import Nipq
from evaluators.training.slimming import VARIANTS
from hw_models.errors import InputError
from spaces.quantization.grid import ActivationScales

ROUNDINGS: dict[str, Callable[[Bits, ActivationScales | None], Method]] = {
    "lsq": Lsq,
    "nipq": Nipq,
    "drgs": Drgs,
}
"""How layers of few bits are trained."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """Training-time methods.

    Attributes:
        rounding: How layers of few bits are trained, a key of `ROUNDINGS`.
        splice: Whether sparse layers may get removed weights back in place of others.
        layers: Whether every layer learns the dense model's outputs on the calibration images,
            instead of a training with labels or distillation.
        slimming: How batch-norm scales are pulled to zero, a variant of `Slimming`, or None.
        gradual: Whether the dense model is trained and loses its channels step by step on the way,
            instead of starting without them.
    """

    rounding: str = "lsq"
    splice: bool = False
    layers: bool = False
    slimming: str | None = None
    gradual: bool = False


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


def check(wish: Wish) -> None:
    """Refuse what cannot be done.

    Raises:
        InputError: An option is wrong.
    """
    for option, value, lowest in (("--trials", wish.trials, 1), ("--epochs", wish.epochs, 1)):
        if value is not None and value < lowest:
            raise InputError(f"{option} {value}: expected at least {lowest}.")
    for option, name, known in (
        ("--rounding", wish.treatment.rounding, tuple(ROUNDINGS)),
        ("--slimming", wish.treatment.slimming, VARIANTS),
    ):
        if name is not None and name not in known:
            raise InputError(f"{option} {name}: expected one of {', '.join(known)}.")
    if wish.treatment.gradual and wish.treatment.layers:
        raise InputError(
            "--gradual and --layers: expected one of them; layers learn from the channels of the "
            "dense model that they still have."
        )
