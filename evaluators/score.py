"""What an evaluation returns: a `Score`, or a `Failed` with the reason. Both travel as JSON.

Imported by all who only look at results, and light therefore: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Rung = Literal["proxy", "subset", "full"]
"""The ladder, cheap to dear: outputs on few images, mAP on some images, mAP on all of them."""

FailureKind = Literal["non-finite", "exploded", "exception"]
"""Why a candidate has no score: NaN or infinite outputs, boxes everywhere, an error inside."""

Box = tuple[float, float, float, float, float, int]
"""x1 y1 x2 y2 as fractions of the picture, score, class."""


@dataclass(frozen=True, slots=True)
class Details:
    """What lies behind one mAP50-95.

    Attributes:
        small: mAP50-95 of objects below 32² pixels; None where the data has none.
        medium: The same from 32² to 96².
        large: The same above 96².
        per_class: (name, its average precision) of the classes that occur.
        seen: For each of the first `evaluators.details.EXAMPLE_IMAGES` images, its detections above
            `SEEN_SCORE`.
    """

    small: float | None
    medium: float | None
    large: float | None
    per_class: tuple[tuple[str, float], ...]
    seen: tuple[tuple[Box, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Details:
        """Build from `to_dict`'s value, also after JSON.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return cls(**{name: _frozen(value) for name, value in fields.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, slots=True)
class Score:
    """How good one candidate is.

    Attributes:
        map50_95: COCO mean average precision over IoU .50 to .95, in 0..1; None on rung "proxy".
        map50: The same at IoU .50.
        distortion: Normalised squared error of the outputs against the dense model's; 0 is dense.
        agreement: Share of the dense model's detections found again, in 0..1; 1 is dense.
        images: Number of images looked at.
        rung: Which step of the ladder this is.
        seconds: Wall time of the evaluation; not compared.
        resampled: map50_95 on resampled images, the same resamples for every model; empty where it
            is not known.
        broken_layer: Where the detections vanished, the first layer that is broken; then the other
            images were not looked at. None for a network that sees something.
        details: On rung "full", what lies behind the mAP.
    """

    map50_95: float | None
    map50: float | None
    distortion: float
    agreement: float
    images: int
    rung: str
    seconds: float = field(default=0.0, compare=False)
    resampled: tuple[float, ...] = ()
    broken_layer: str | None = None
    details: Details | None = None

    def __post_init__(self) -> None:
        for name in ("map50_95", "map50", "distortion", "agreement", "seconds"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"Score.{name} must be finite, got {value}: return Failed instead")
        for name in ("map50_95", "map50", "agreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"Score.{name} must lie in 0..1, got {value}")
        if self.images < 1:
            raise ValueError(f"Score.images must be at least 1, got {self.images}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; details only where there are any."""
        values = asdict(self)
        if self.details is None:
            del values["details"]
        return values

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Score:
        """Build a score from `to_dict`'s value.

        Raises:
            ValueError: If a value is not finite or out of range.
            TypeError: If a field is missing or unknown.
        """
        details, resampled = fields.get("details"), tuple(fields.get("resampled", ()))
        details = None if details is None else Details.from_dict(details)
        return cls(**{**fields, "resampled": resampled, "details": details})


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a candidate has no score.

    Attributes:
        kind: A short word to count by: "non-finite", "exploded", "exception"; the actor pool adds
            its own ("timeout", "died", ...).
        message: What happened, for a person.
        retryable: Whether the same candidate may succeed elsewhere (a lost worker), or never will.
    """

    kind: str
    message: str
    retryable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Failed:
        """Build a failure from `to_dict`'s value.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return cls(**fields)
