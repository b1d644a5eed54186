"""An evaluation that only takes its time. Light: many actors of it fit into little memory."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from evaluators.score import Failed, Score
from spaces.candidate import Candidate

SHORTEST_S, LONGEST_S = 0.05, 5.0
FAILURES = 0.02


@dataclass(frozen=True, slots=True)
class Sleeper:
    """Sleeps for a time with a heavy tail (log-normal, clipped); some evaluations fail.

    What a candidate gets depends on its digest alone.

    Attributes:
        mean_s: About what an evaluation takes on average.
    """

    mean_s: float = 1.0

    def evaluate(self, candidate: Candidate, rung: str) -> Score | Failed:
        """Sleep, and answer."""
        chance = random.Random(candidate.digest)  # noqa: S311 - no secret
        seconds = self.mean_s * chance.lognormvariate(-0.45, 1.0)
        time.sleep(min(LONGEST_S, max(SHORTEST_S, seconds)))
        if chance.random() < FAILURES:
            return Failed("simulated", "this one fails")
        accuracy = chance.random()
        return Score(accuracy, accuracy, 1 - accuracy, accuracy, images=32, rung=rung)
