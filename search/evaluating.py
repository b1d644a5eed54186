"""An evaluation, and the actor that carries one out at a time.

Imported by every actor, and light therefore: what an evaluator is made of comes with it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

import ray

from evaluators.score import Failed, Score
from search.ledger import Outcome, Task
from spaces.candidate import Candidate


class Evaluates(Protocol):
    """Says how good a candidate is."""

    def evaluate(self, candidate: Candidate, rung: str) -> Score | Failed:
        """Score a candidate at a rung; see `evaluators.evaluator.Evaluator`."""


Build = Callable[[], Evaluates]  # carries all an evaluator is made of; picklable


def evaluate(evaluator: Evaluates, task: Task, where: str) -> Outcome:
    """Carry out one task in this process."""
    start = time.perf_counter()
    result = evaluator.evaluate(task.candidate, task.rung)
    return Outcome(task, result, time.perf_counter() - start, where)


def use_one_thread() -> None:
    """Keep torch to one thread, if it is there: the other cores are for the other actors."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


class EvaluatorActor:
    """An evaluator in a process of its own. Made a Ray actor by `RayPool`."""

    def __init__(self, build: Build) -> None:
        use_one_thread()
        self._evaluator = build()
        self._where = f"{ray.util.get_node_ip_address()}/{os.getpid()}"

    def ready(self) -> None:
        """Answer, so that the pool knows that the actor is up."""

    def run(self, task: Task) -> Outcome:
        """Carry out one task."""
        return evaluate(self._evaluator, task, self._where)
