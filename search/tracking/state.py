"""How a run stands, and what may be told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class State:
    """How a run stands at one moment.

    Attributes:
        seconds: Wall time of this driver.
        evaluations: What it had evaluated; the results of a run resumed are not counted again.
        failures: How many of them failed.
        actors: Who evaluates, those that are starting included.
        busy: Share of the actors' time that went into evaluations since the last state. An
            evaluation counts when it ends.
        hypervolume: See `Explorer.hypervolume`; 0 before the first candidates.
        best: Best mAP50-95 so far within each latency budget, by the user's words for it.
    """

    seconds: float
    evaluations: int
    failures: int
    actors: int
    busy: float
    hypervolume: float
    best: Mapping[str, float]

    @property
    def values(self) -> dict[str, float]:
        """All of it by names that every tracker takes: letters, digits, `_`, `/` and `.`."""
        numbers = {
            name: float(getattr(self, name))
            for name in ("seconds", "evaluations", "failures", "actors", "busy", "hypervolume")
        }
        best = {
            f"best_map50_95/{text.replace('%', 'pct')}": value for text, value in self.best.items()
        }
        return numbers | best


class Tracker(Protocol):
    """Tells somebody how a run stands."""

    def report(self, state: State) -> None:
        """Tell it. May fail with whatever its library raises."""

    def close(self) -> None:
        """Tell that the run has ended."""
