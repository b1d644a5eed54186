"""Who evaluates: Ray actors under a small pool of our own, or this process.

Both pools have one method: `run(tasks)` yields an `Outcome` for every task, in the order they end.
Tasks are drawn one by one, whenever somebody is idle and all outcomes so far were seen: a generator
can so decide late what is to be done next. It may say None: nothing before another one has ended.

Ray's own ActorPool drops dead actors without replacing them and knows no deadline. Here an actor
that dies or overstays is killed and replaced, and its task is tried twice more, then recorded as
failed. When actors only die and none ever answers, the pool gives up.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import socket
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evaluators.score import Failed
from hw_models.errors import DeviceError
from search.evaluating import Build, EvaluatorActor, evaluate, use_one_thread
from search.ledger import Outcome, Task
from search.nodes import ACTORS_PER_GPU, Node, alive_nodes, allot, units

log = logging.getLogger(__name__)

PACKAGES = ("hw_models", "spaces", "evaluators", "search")
START_S = 300.0  # longest wall time for an actor to come up
EACH_S = 10.0  # more for each one that its node is to have: few start at once
NODES_S = 1200.0  # without a node that offers anything; a new machine takes minutes to set up
TRIES = 3  # of one task, before it is recorded as failed
DEATHS = 5  # in a row, times its number of actors, before a node is given up
CONNECT_S = 5.0  # for a head to take a connection
LOOK_S = 1.0  # between looks at the cluster's nodes
SLOW = 2.0  # times the usual wall time, before an idle actor takes a copy of a task
KNOWN = 3  # tasks of a rung, before its usual wall time is known
RECENT = 32  # tasks that it is the median of
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{2**30}", "MALLOC_TRIM_THRESHOLD_": f"{2**32}"}
"""Has glibc keep what a forward pass frees for the next: else its pages are cleared each time."""


class Pool(Protocol):
    """Carries out evaluations."""

    @property
    def size(self) -> int:
        """Number of tasks carried out at once."""

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in the order they end; no task may come twice."""

    def close(self) -> None:
        """Let go of all resources; what is in flight is dropped."""


class InProcessPool:
    """Evaluates here, one task after the other: for tests and debugging (`--actors 0`)."""

    size = 1

    def __init__(self, build: Build) -> None:
        use_one_thread()  # as an actor does, so that the results are the same
        self._evaluator = build()

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in their order."""
        for task in tasks:
            if task is not None:
                yield evaluate(self._evaluator, task, "in-process")

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seat:
    """An actor and the node it is on."""

    actor: Any
    node: str


@dataclass(slots=True)
class _Job:
    """What an actor is doing: a task, or, without one, starting."""

    seat: _Seat
    start: float  # on the pool's clock, in seconds
    allowed_s: float
    task: Task | None = None
    attempt: int = 0

    @property
    def deadline(self) -> float:
        return self.start + self.allowed_s


class RayPool:
    """Evaluates in Ray actors, one task at a time each, on whatever nodes the cluster has.

    Nodes that join are used; nodes that leave are dropped, and what they were at is done elsewhere.
    While nothing else waits, idle actors take a second copy of what is slow: the first result
    counts. A node on which actors only die gets no more of them.

    Args:
        build: Makes the evaluator inside the actor; goes through the object store, once a node.
        size: Most actors; None = as many as fit.
        deadline_s: Longest wall time of a task.
        use_gpus: Whether actors share GPUs where the cluster has any; else one takes a CPU.
        clock: Seconds that never run backwards.

    Raises:
        DeviceError: While running: no actor could be kept alive, or no node offers anything.
    """

    def __init__(
        self,
        build: Build,
        size: int | None,
        deadline_s: Callable[[Task], float],
        use_gpus: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        start_ray()
        self._limit = size
        self._deadline_s = deadline_s
        self._use_gpus = use_gpus
        self._clock = clock
        self._build = ray.put(build)
        self._actor_class = ray.remote(EvaluatorActor)
        self._nodes = alive_nodes()
        offered = sum(units(self._nodes.values(), use_gpus).values())
        # Fixed from here on: actors that are there would leave no room for larger ones.
        self._share = min(1.0, offered / size) if size and offered else 1.0
        self._idle: list[_Seat] = []
        self._busy: dict[Any, _Job] = {}
        self._deaths: Counter[str] = Counter()  # in a row, by node
        self._last_words = ""
        self._seconds: dict[str, deque[float]] = {}  # what tasks took of late, by rung
        self._peopled = clock()  # when there last was an actor
        self._looked = -math.inf  # at the nodes, last

    @property
    def size(self) -> int:
        """Number of actors, those that are starting included; before the first task, to come."""
        if math.isinf(self._looked):
            return self._allotted().total()
        return len(self._idle) + len(self._busy)

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield an outcome for every task, in the order they end.

        Actors take their time to start, and only do so once there is a task.
        """
        source = iter(tasks)
        if (first := next(source, None)) is not None:
            yield from self._run(itertools.chain([first], source))

    def _run(self, source: Iterator[Task | None]) -> Iterator[Outcome]:
        self._peopled = self._clock()  # the cluster is given its time for the first actor
        waiting = deque[tuple[Task, int]]()  # to be tried again
        left = set[tuple[str, str]]()  # drawn, and not yielded yet
        more = True
        while more or left:
            if self._clock() - self._looked >= LOOK_S:
                self._look_around()
            more = self._employ(source, waiting, left)
            if self._idle:
                self._double(left)
            for outcome in self._collect(waiting) if more or left else ():
                if outcome.task.key in left:  # else another copy was faster
                    left.remove(outcome.task.key)
                    yield outcome

    def _employ(
        self,
        source: Iterator[Task | None],
        waiting: deque[tuple[Task, int]],
        left: set[tuple[str, str]],
    ) -> bool:
        """Give the idle actors something to do; tell whether the source may have more."""
        while self._idle:
            if not waiting:
                try:
                    task = next(source)
                except StopIteration:
                    return False
                if task is None:
                    return True
                left.add(task.key)
                waiting.append((task, 1))
            self._assign(self._idle.pop(), *waiting.popleft())
        return True

    def _look_around(self) -> None:
        """Forget the nodes that left, and have the actors there are to be on the others."""
        self._looked = self._clock()
        before, self._nodes = self._nodes, alive_nodes()
        for node in before.keys() - self._nodes.keys():
            log.warning("node %s left", before[node].address)
            del self._deaths[node]
        self._idle = [seat for seat in self._idle if seat.node in self._nodes]
        present = Counter(seat.node for seat in self._idle)
        present.update(job.seat.node for job in self._busy.values())
        present = Counter({node: n for node, n in present.items() if node in self._nodes})
        room = None if self._limit is None else self._limit - present.total()
        for node, count in self._allotted().items():
            missing = 0 if self._worn_out(node, count) else max(0, count - present[node])
            for _ in range(missing if room is None else min(missing, room)):
                self._start(self._nodes[node], count)
            if node not in before:
                log.info("node %s joined: %d actors", self._nodes[node].address, count)
        self._complain()

    def _allotted(self) -> Counter[str]:
        return allot(self._nodes.values(), self._limit, self._share, self._use_gpus)

    def _worn_out(self, node: str, actors: int) -> bool:
        return self._deaths[node] >= DEATHS * actors

    def _complain(self) -> None:
        """Give up when there is no actor, and no hope of one."""
        if self.size:
            self._peopled = self._clock()
        elif self._deaths.total():
            raise DeviceError(
                f"Evaluation actors die before they answer, {self._deaths.total()} in a row; "
                f"the last with: {self._last_words}.",
                "See the Ray logs of the node; nothing evaluated is lost: go on with --resume.",
            )
        elif self._clock() - self._peopled > NODES_S:
            raise DeviceError(
                f"No node of the Ray cluster has offered a CPU or GPU for {NODES_S:.0f} s.",
                "See `ray status`; nothing evaluated is lost: go on with --resume.",
            )

    def _start(self, node: Node, count: int) -> None:
        """Start an actor on a node that is to have so many."""
        resources = {
            "num_cpus": min(self._share, node.cpus),
            "num_gpus": min(self._share / ACTORS_PER_GPU, node.gpus) if self._use_gpus else 0,
        }
        actor = self._actor_class.options(
            **resources,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False),
        ).remote(self._build)
        job = _Job(_Seat(actor, node.name), self._clock(), START_S + EACH_S * count)
        self._busy[actor.ready.remote()] = job

    def _assign(self, seat: _Seat, task: Task, attempt: int) -> None:
        job = _Job(seat, self._clock(), self._deadline_s(task), task, attempt)
        self._busy[seat.actor.run.remote(task)] = job

    def _double(self, left: Container[tuple[str, str]]) -> None:
        """Give idle actors, on another node if there is one, a second copy of what is slow."""
        copies = Counter(job.task.key for job in self._busy.values() if job.task is not None)
        for job in sorted(self._busy.values(), key=lambda job: job.start):
            task = job.task
            if task is None or task.key not in left or copies[task.key] > 1:
                continue
            if self._clock() - job.start > self._usual_s(task.rung) * SLOW:
                elsewhere = [seat for seat in self._idle if seat.node != job.seat.node]
                seat = (elsewhere or self._idle)[-1]
                self._idle.remove(seat)
                self._assign(seat, task, job.attempt)
            if not self._idle:
                return

    def _usual_s(self, rung: str) -> float:
        """Return how long a task of this rung takes, infinity while little is known."""
        seconds = self._seconds.get(rung, ())
        return statistics.median(seconds) if len(seconds) >= KNOWN else math.inf

    def _collect(self, waiting: deque[tuple[Task, int]]) -> Iterator[Outcome]:
        """Wait for a job to end or overstay, but not long, and yield what is final."""
        if not self._busy:
            time.sleep(LOOK_S)
            return
        patience_s = min(job.deadline for job in self._busy.values()) - self._clock()
        done, _ = ray.wait(list(self._busy), timeout=min(max(0.0, patience_s), LOOK_S))
        for ref in done:
            job = self._busy.pop(ref)
            try:
                outcome = ray.get(ref)
            except RayTaskError as error:
                if not isinstance(error.cause, torch.OutOfMemoryError):
                    raise error.as_instanceof_cause() from None  # a bug: stop loudly
                ray.kill(job.seat.actor, no_restart=True)  # gives the GPU's memory back
                yield from self._bury(job, "crash", str(error.cause).splitlines()[0], waiting)
            except RayError as error:
                yield from self._bury(job, "crash", str(error).splitlines()[0], waiting)
            else:
                self._idle.append(job.seat)
                if job.task is not None:
                    self._deaths.pop(job.seat.node, None)
                    recent = self._seconds.setdefault(job.task.rung, deque(maxlen=RECENT))
                    recent.append(self._clock() - job.start)
                    yield outcome
        for ref, job in list(self._busy.items()):
            if job.deadline <= self._clock():
                del self._busy[ref]
                ray.kill(job.seat.actor, no_restart=True)
                message = f"no answer within {job.allowed_s:.0f} s"
                yield from self._bury(job, "timeout", message, waiting)

    def _bury(
        self, job: _Job, kind: str, message: str, waiting: deque[tuple[Task, int]]
    ) -> Iterator[Outcome]:
        """Replace a dead actor; have its task done by another, or yield it as failed."""
        log.warning("actor lost (%s: %s)", kind, message)
        self._deaths[job.seat.node] += 1
        self._last_words = message
        self._look_around()
        task = job.task
        if task is None or any(
            other.task is not None and other.task.key == task.key for other in self._busy.values()
        ):
            return
        if job.attempt < TRIES:
            waiting.appendleft((task, job.attempt + 1))
        else:
            failed = Failed(kind, message, retryable=True)
            yield Outcome(task, failed, job.allowed_s, "lost actor")

    def close(self) -> None:
        """Kill the actors; what is in flight is dropped."""
        for seat in [*self._idle, *(job.seat for job in self._busy.values())]:
            ray.kill(seat.actor, no_restart=True)
        self._idle, self._busy = [], {}


def _remembers_a_dead_cluster() -> bool:
    """Tell whether Ray would wait, forever, for a cluster of this machine that does not answer.

    The address of a head that was killed, by the kernel for its memory, say, stays in a file.
    """
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    if os.environ.get("RAY_ADDRESS") or not file.is_file():
        return False
    address = file.read_text(encoding="utf-8").strip()
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, ValueError):
        log.warning("the Ray cluster at %s does not answer: a local one is started", address)
        return True
    return False


def start_ray() -> None:
    """Connect to the Ray cluster of this machine, or start a local one.

    The packages travel with the run, so that nodes need only the environment, not the code.
    Importing ultralytics must neither write to the user's settings nor ask the network.
    """
    if ray.is_initialized():
        return
    root = Path(__file__).resolve().parents[1]
    ray.init(
        address="local" if _remembers_a_dead_cluster() else None,
        runtime_env={
            "py_modules": [str(root / package) for package in PACKAGES],
            "env_vars": {"YOLO_OFFLINE": "1", "OMP_NUM_THREADS": "1", **KEPT_MEMORY},
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
    )
