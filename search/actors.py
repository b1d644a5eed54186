"""Who evaluates: Ray actors under a small pool of our own, or this process.

Both pools have one method: `run(tasks)` yields an `Outcome` for every task, in the order they end.
Ray's own ActorPool drops dead actors without replacing them and knows no deadline. Here an actor
that dies or overstays is killed and replaced, and its task is tried once more, then recorded as
failed. When actors only die and none ever answers, the pool gives up.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from evaluators.evaluator import Evaluator
from evaluators.score import Failed
from hw_models.errors import DeviceError
from search.ledger import Outcome, Task

log = logging.getLogger(__name__)

PACKAGES = ("hw_models", "spaces", "evaluators", "search")
START_S = 300.0  # longest wall time for an actor to come up
TRIES = 2  # of one task, before it is recorded as failed
DEATHS = 3  # in a row, times the number of actors, before the pool gives up

Build = Callable[[], Evaluator]  # carries all an evaluator is made of; picklable


class Pool(Protocol):
    """Carries out evaluations."""

    size: int

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in the order they end."""

    def close(self) -> None:
        """Let go of all resources; what is in flight is dropped."""


def evaluate(evaluator: Evaluator, task: Task, where: str) -> Outcome:
    """Carry out one task in this process."""
    start = time.perf_counter()
    result = evaluator.evaluate(task.candidate, task.rung)
    return Outcome(task, result, time.perf_counter() - start, where)


class InProcessPool:
    """Evaluates here, one task after the other: for tests and debugging (`--actors 0`)."""

    size = 1

    def __init__(self, build: Build) -> None:
        torch.set_num_threads(1)  # as an actor has, so that the results are the same
        self._evaluator = build()

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in their order."""
        for task in tasks:
            yield evaluate(self._evaluator, task, "in-process")

    def close(self) -> None:
        """Nothing to let go of."""


class EvaluatorActor:
    """An evaluator in a process of its own. Made a Ray actor by `RayPool`."""

    def __init__(self, build: Build) -> None:
        torch.set_num_threads(1)
        self._evaluator = build()
        self._where = f"{ray.util.get_node_ip_address()}/{os.getpid()}"

    def ready(self) -> None:
        """Answer, so that the pool knows that the actor is up."""

    def run(self, task: Task) -> Outcome:
        """Carry out one task."""
        return evaluate(self._evaluator, task, self._where)


@dataclass(slots=True)
class _Job:
    """What an actor is doing: a task, or, without one, starting."""

    actor: Any
    allowed_s: float
    deadline: float  # on the pool's clock, in seconds
    task: Task | None = None
    attempt: int = 0


class RayPool:
    """Evaluates in Ray actors, one task at a time each.

    Args:
        build: Makes the evaluator inside the actor; goes through the object store once.
        size: Number of actors; None = one a GPU where the cluster has GPUs, else one a CPU.
        deadline_s: Longest wall time of a task.
        clock: Seconds that never run backwards.

    Raises:
        DeviceError: While running: no actor could be kept alive.
    """

    def __init__(
        self,
        build: Build,
        size: int | None,
        deadline_s: Callable[[Task], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        start_ray()
        cpus = ray.cluster_resources().get("CPU", 1.0)
        gpus = ray.cluster_resources().get("GPU", 0.0)
        self.size = size or int(gpus) or max(1, int(cpus))
        self._deadline_s = deadline_s
        self._clock = clock
        self._build = ray.put(build)
        self._actor_class = ray.remote(EvaluatorActor).options(
            num_cpus=min(1.0, cpus / self.size), num_gpus=min(1.0, gpus / self.size), max_restarts=0
        )
        self._idle: list[Any] = []
        self._busy: dict[Any, _Job] = {}
        self._deaths_in_a_row = 0
        for _ in range(self.size):
            self._start()

    def _start(self) -> None:
        actor = self._actor_class.remote(self._build)
        job = _Job(actor, START_S, self._clock() + START_S)
        self._busy[actor.ready.remote()] = job

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in the order they end."""
        waiting = deque((task, 1) for task in tasks)
        while waiting or any(job.task is not None for job in self._busy.values()):
            while waiting and self._idle:
                self._assign(self._idle.pop(), *waiting.popleft())
            yield from self._collect(waiting)

    def _assign(self, actor: Any, task: Task, attempt: int) -> None:
        allowed_s = self._deadline_s(task)
        job = _Job(actor, allowed_s, self._clock() + allowed_s, task, attempt)
        self._busy[actor.run.remote(task)] = job

    def _collect(self, waiting: deque[tuple[Task, int]]) -> Iterator[Outcome]:
        """Wait for the next job to end or overstay, and yield what is final."""
        patience_s = min(job.deadline for job in self._busy.values()) - self._clock()
        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=max(0.0, patience_s))
        for ref in done:
            job = self._busy.pop(ref)
            try:
                outcome = ray.get(ref)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None  # a bug in an evaluator: stop loudly
            except RayError as error:
                yield from self._bury(job, "crash", str(error).splitlines()[0], waiting)
            else:
                self._idle.append(job.actor)
                if job.task is not None:
                    self._deaths_in_a_row = 0
                    yield outcome
        for ref, job in list(self._busy.items()):
            if job.deadline <= self._clock():
                del self._busy[ref]
                ray.kill(job.actor, no_restart=True)
                message = f"no answer within {job.allowed_s:.0f} s"
                yield from self._bury(job, "timeout", message, waiting)

    def _bury(
        self, job: _Job, kind: str, message: str, waiting: deque[tuple[Task, int]]
    ) -> Iterator[Outcome]:
        """Replace a dead actor; try its task again, or yield it as failed."""
        log.warning("actor lost (%s: %s)", kind, message)
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= DEATHS * self.size:
            raise DeviceError(
                f"Evaluation actors die before they answer, {self._deaths_in_a_row} in a row; "
                f"the last with: {message}.",
                "See the Ray logs of the node; nothing evaluated is lost: go on with --resume.",
            )
        self._start()
        if job.task is None:
            return
        if job.attempt < TRIES:
            waiting.appendleft((job.task, job.attempt + 1))
        else:
            failed = Failed(kind, message, retryable=True)
            yield Outcome(job.task, failed, job.allowed_s, "lost actor")

    def close(self) -> None:
        """Kill the actors; what is in flight is dropped."""
        for actor in [*self._idle, *(job.actor for job in self._busy.values())]:
            ray.kill(actor, no_restart=True)
        self._idle, self._busy = [], {}


def start_ray() -> None:
    """Connect to the Ray cluster of this machine, or start a local one.

    The packages travel with the run, so that nodes need only the environment, not the code.
    Importing ultralytics must neither write to the user's settings nor ask the network.
    """
    if ray.is_initialized():
        return
    root = Path(__file__).resolve().parents[1]
    ray.init(
        runtime_env={
            "py_modules": [str(root / package) for package in PACKAGES],
            "env_vars": {"YOLO_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
    )
