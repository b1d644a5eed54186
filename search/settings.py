"""What the user asked for, validated once at the edge.

`Settings` holds the options as given (budgets still in the user's units); `Limits` are the same
budgets resolved against the dense model, in ms, mJ and bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from evaluators.score import Score
from hw_models.cost import Cost
from hw_models.errors import InputError

Dimension = Literal["latency", "energy", "size"]
Track = Literal["tensorboard", "mlflow", "wandb"]
Method = Literal[
    "paretrim", "nsga2", "milp", "dp", "spdy", "eagleeye", "netadapt", "hawq", "halp",
    "error-limit", "random", "uniform",
]  # fmt: skip

# Factors to ms, mJ and bytes.
_UNITS = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"uj": 1e-3, "mj": 1.0, "j": 1e3},
    "size": {"kb": 1e3, "mb": 1e6, "gb": 1e9},
}
_EXAMPLES = {"latency": "30ms, 0.03s or 75%", "energy": "200mJ, 0.2J or 60%", "size": "5MB or 60%"}
_NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zA-Z%]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit as the user wrote it.

    Attributes:
        text: The user's own words, such as `30ms`.
        value: In ms, mJ or bytes; or a fraction of the dense model's.
        relative: Whether `value` is that fraction.
    """

    text: str
    value: float
    relative: bool

    def resolve(self, dense: float) -> float:
        """Return the limit in ms, mJ or bytes, given the dense model's value."""
        return self.value * dense if self.relative else self.value


def parse_budget(text: str, dimension: Dimension) -> Budget:
    """Read `30ms`, `0.2J`, `5MB` or `75%`.

    Raises:
        InputError: No number, no unit or an unknown unit, or a value that is not above 0.
    """
    expected = f"expected a number with its unit, such as {_EXAMPLES[dimension]}"
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--{dimension} {text}: {expected}, got {text!r}.")
    number, unit = float(match[1]), match[2].lower()
    if number <= 0:
        raise InputError(f"--{dimension} {text}: a budget must be above 0; {expected}.")
    if unit == "%":
        return Budget(text.strip(), number / 100, relative=True)
    if not unit:
        first = _EXAMPLES[dimension].split(",")[0].split(" or ")[0]
        default = first.lstrip("0123456789.")
        raise InputError(
            f"--{dimension} {text}: the unit is missing; {expected}.",
            f"Did you mean --{dimension} {text}{default}?",
        )
    if unit not in _UNITS[dimension]:
        raise InputError(f"--{dimension} {text}: unknown unit {match[2]!r}; {expected}.")
    return Budget(text.strip(), number * _UNITS[dimension][unit], relative=False)


def parse_duration_s(text: str) -> float:
    """Read `90s`, `30m` or `8h` as seconds.

    Raises:
        InputError: Anything else.
    """
    match = _NUMBER.fullmatch(text.strip())
    factors = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
    if match is None or match[2].lower() not in factors or float(match[1]) <= 0:
        raise InputError(f"--time-budget {text}: expected a time such as 90s, 30m or 8h.")
    return float(match[1]) * factors[match[2].lower()]


class Settings(BaseModel):
    """Everything that decides the result of a run; written to `study.yaml`.

    The options are those of the command line. `prune` is a saliency criterion or `none`; with
    `depth`, whole residual blocks may be dropped; empty `bits`, `act_bits` and `pattern` mean the
    target's useful set; empty `imgsz` the model's own size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str = "demo"
    data: str = "demo"
    imgsz: tuple[int, ...] = ()
    target: str = "jetson-tx2"
    power_mode: str | None = None
    latency: tuple[Budget, ...] = Field(min_length=1)
    energy: Budget | None = None
    size: Budget | None = None
    max_drop: float | None = Field(default=None, ge=0, le=1)
    method: Method = "paretrim"
    prune: str = "residual"
    depth: bool = False
    bits: tuple[int, ...] = ()
    act_bits: tuple[int, ...] = ()
    pattern: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    evals: int = Field(default=400, ge=1)
    time_budget_s: float | None = None
    actors: int | None = Field(default=None, ge=0)
    measure_on: tuple[str, ...] = ()
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token_file: str | None = None
    server_name: str = ""
    reuse: tuple[str, ...] = Field(default=(), exclude=True)  # what was used is in the journal
    track: tuple[Track, ...] = ()
    mirror: str | None = None
    seed: int = Field(default=0, ge=0)
    trust_checkpoint: bool = False

    @field_validator("latency", "energy", "size", mode="before")
    @classmethod
    def _read_budgets(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return parse_budget(value, cast("Dimension", info.field_name))
        if isinstance(value, (list, tuple)):
            return tuple(cls._read_budgets(item, info) for item in value)
        return value

    @field_serializer("latency", "energy", "size")
    def _write_budgets(self, value: tuple[Budget, ...] | Budget | None) -> object:
        if isinstance(value, tuple):
            return [budget.text for budget in value]
        return value and value.text


@dataclass(frozen=True, slots=True)
class Limits:
    """One latency budget together with the run's other budgets, all absolute.

    Attributes:
        text: The latency budget in the user's words.
        latency_ms: Largest latency.
        energy_mj: Largest energy per inference, or None.
        size_bytes: Largest stored size, or None.
        map50_95: Smallest accuracy, or None.
    """

    text: str
    latency_ms: float
    energy_mj: float | None = None
    size_bytes: float | None = None
    map50_95: float | None = None

    @property
    def besides_latency(self) -> Limits:
        """The same without the latency limit."""
        return replace(self, latency_ms=math.inf)

    def met_by(self, cost: Cost, score: Score) -> bool:
        """Whether a point keeps every limit."""
        accurate = self.map50_95 is None or (score.map50_95 or 0.0) >= self.map50_95
        return self.affordable(cost) and accurate

    def affordable(self, cost: Cost) -> bool:
        """Whether a cost keeps the latency, energy and size limits."""
        return (
            cost.latency_ms <= self.latency_ms
            and (self.energy_mj is None or cost.energy_mj <= self.energy_mj)
            and (self.size_bytes is None or cost.size_bytes <= self.size_bytes)
        )


def resolve_limits(settings: Settings, dense: Cost) -> tuple[Limits, ...]:
    """Turn the budgets into absolute limits, one per latency budget, tightest first.

    The accuracy floor of `--max-drop` is not set yet: it needs the dense model's score.

    Args:
        settings: The user's options.
        dense: Cost of the dense model at its largest input size and baseline precision.

    Raises:
        InputError: An energy budget on a profile that has no energy model.
    """
    if settings.energy is not None and math.isnan(dense.energy_mj):
        raise InputError(
            f"--energy {settings.energy.text}: no energy was ever measured for the profile "
            f"{settings.target}, so none can be predicted.",
            "Leave --energy out, or choose another --target.",
        )
    energy = None if settings.energy is None else settings.energy.resolve(dense.energy_mj)
    size = None if settings.size is None else settings.size.resolve(dense.size_bytes)
    limits = [
        Limits(budget.text, budget.resolve(dense.latency_ms), energy, size)
        for budget in settings.latency
    ]
    return tuple(sorted(limits, key=lambda limit: limit.latency_ms))
