"""How a search stands, for those who watch: written by the search, read by anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from search.run_folder import RunFolder, write_whole


@dataclass(frozen=True, slots=True)
class Best:
    """The best point so far within one budget.

    Attributes:
        map50_95: On the images that candidates are compared on.
        latency_ms: Predicted.
    """

    map50_95: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Status:
    """What only the search itself knows; before the first candidates, nothing.

    Attributes:
        scored: Candidates scored.
        evals: Candidates to score at most.
        hypervolume: Of the front so far, see `Explorer.hypervolume`.
        best: By budget, as the user wrote it; None where nothing is within it yet.
    """

    scored: int = 0
    evals: int = 0
    hypervolume: float = 0.0
    best: Mapping[str, Best | None] = field(default_factory=dict)

    @property
    def map50_95(self) -> dict[str, float]:
        """The best mAP50-95 by budget, 0 where nothing is within it yet."""
        return {text: 0.0 if best is None else best.map50_95 for text, best in self.best.items()}


def write_status(run: RunFolder, status: Status) -> None:
    """Let those who watch know."""
    write_whole(run.status, json.dumps(asdict(status)) + "\n")


def read_status(run: RunFolder) -> Status | None:
    """Return how a search stands; None if it has not said yet."""
    try:
        content = json.loads(run.status.read_text(encoding="utf-8"))
        best = {text: value and Best(**value) for text, value in content.pop("best").items()}
        return Status(**content, best=best)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or of another version
        return None
