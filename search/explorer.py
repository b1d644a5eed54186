"""What a search method sees: variables, costs, a way to have genomes scored, and what is known.

A method is a function of an `Explorer`. It asks for scores until one of the `Stop` reasons is
raised, which it lets pass; every scored point is kept, so a method has nothing to return.

Axis letters: N genomes, V variables, M objectives, D dimensions of cost (latency, energy, size).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from evaluators.score import Failed, Score
from hw_models.cost import Cost, CostBatch
from search.actors import Pool
from search.front import Front, Point, hypervolume
from search.ledger import Ledger, Task
from search.pricing import part_costs
from search.problem import Problem, accuracy
from search.settings import Limits
from search.solvers.terms import DIMENSIONS, Terms, decompose
from search.status import Best, Status
from spaces.axis import Variable
from spaces.candidate import Candidate

log = logging.getLogger(__name__)

Genomes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Result = Score | Failed

FAILED = 1e9  # objectives of a genome without a score: finite, worse than any real one


class Stop(Exception):
    """A reason to stop exploring; not an error."""


class OutOfTime(Stop):
    """The time budget is spent."""


class Spent(Stop):
    """The evaluations are spent."""


@dataclass(slots=True)
class Session:
    """Carries out evaluations: journal first, pool for the rest.

    Attributes:
        ledger: What is known, and where results go.
        pool: Who evaluates.
        progress: Where it shows.
        clock: Seconds that never run backwards.
        stop_at: On that clock, when to stop exploring; None for never.
        failures: How many candidates failed, by kind.
        asks: How often a method has asked for new candidates.
        evaluations: How many results were recorded.
        busy_s: Wall time that they took, of all actors together.
        collapses: How many candidates saw nothing any more, by the first layer that is broken.
        status: How the search stands, as a method said last.
        note: Told each time.
    """

    ledger: Ledger
    pool: Pool
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    stop_at: float | None = None
    failures: Counter[str] = field(default_factory=Counter)
    asks: int = 0
    evaluations: int = 0
    busy_s: float = 0.0
    collapses: Counter[str] = field(default_factory=Counter)
    status: Status = field(default_factory=Status)
    note: Callable[[Status], None] = lambda _: None

    def results(self, candidates: Sequence[Candidate], rung: str, title: str) -> list[Result]:
        """Return the results of candidates at a rung, in their order; nothing is evaluated twice.

        Raises:
            OutOfTime: Before starting, when the time budget is spent and something is not known.
        """
        return self.results_of([Task(candidate, rung) for candidate in candidates], title)

    def results_of(self, tasks: Sequence[Task], title: str) -> list[Result]:
        """Return the results of tasks of one rung; see `results`."""
        missing = [task for task in _by_key(tasks).values() if not self.knows(task)]
        if missing and missing[0].rung != "full":
            self.check_time()
        if missing:
            self.carry_out(missing, title, len(missing))
        return [self.ledger.results[task.key] for task in tasks]

    def knows(self, task: Task) -> bool:
        """Tell whether the result of a task is known, here or in another run."""
        return self.ledger.knows(task, self.asks)

    def check_time(self) -> None:
        """Look at the clock.

        Raises:
            OutOfTime: The time budget is spent.
        """
        if self.stop_at is not None and self.clock() >= self.stop_at:
            raise OutOfTime("time budget spent")

    def carry_out(self, tasks: Iterable[Task | None], title: str, total: int) -> None:
        """Have tasks evaluated and record the outcomes; see `search.actors` for how they are drawn.

        Args:
            tasks: None of which is known.
            title: What the progress bar says.
            total: How many tasks there will be, about.
        """
        bar = self.progress.add_task(title, total=total)
        for outcome in self.pool.run(tasks):
            self.ledger.record(outcome, self.asks)
            self.evaluations += 1
            self.busy_s += outcome.seconds
            self.progress.advance(bar)
            if isinstance(outcome.result, Failed):
                self.failures[outcome.result.kind] += 1
                log.info("failed: %s", outcome.result.message)
            elif outcome.result.broken_layer is not None:
                self.collapses[outcome.result.broken_layer] += 1
        self.progress.remove_task(bar)


class Explorer:
    """One exploration of a problem, within its number of evaluations.

    Args:
        problem: What is searched.
        session: Carries out the evaluations.
        points: Every scored point is added here by digest, so that an interrupted search leaves
            what it has.

    Attributes:
        random: All random choices come from here.
        scored: Results of the genomes scored so far, by their bytes.
        objectives: Their objectives; `FAILED` for one without a score.
        front: Non-dominated genomes so far.
    """

    def __init__(self, problem: Problem, session: Session, points: dict[str, Point]) -> None:
        self.problem = problem
        self.session = session
        self.points = points
        self.random = np.random.default_rng(problem.settings.seed)
        self.scored: dict[bytes, Result] = {}
        self.objectives: dict[bytes, tuple[float, ...]] = {}
        self.front = Front[Genomes](problem.objective_count)
        self._best: dict[Limits, Best | None] = dict.fromkeys(problem.limits)

    @property
    def best(self) -> dict[Limits, float]:
        """For each budget, the best mAP50-95 so far within it; 0 for none."""
        return {limit: best.map50_95 if best else 0.0 for limit, best in self._best.items()}

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """What varies."""
        return self.problem.space.variables

    @cached_property
    def upper_V(self) -> Genomes:
        """Largest level of each variable."""
        return np.asarray(self.problem.space.upper, dtype=np.int64)

    @cached_property
    def size_column(self) -> int | None:
        """The column of the input size, None if it does not vary."""
        names = [variable.name for variable in self.variables]
        return names.index("imgsz") if "imgsz" in names else None

    @cached_property
    def dense_NV(self) -> Genomes:
        """The least compressed genome at each input size, the largest size first."""
        genomes_NV = np.zeros((len(self.problem.sizes), len(self.upper_V)), dtype=np.int64)
        if self.size_column is not None:
            genomes_NV[:, self.size_column] = np.arange(len(genomes_NV))
        return genomes_NV

    def family(self, *names: str) -> list[int]:
        """Return the columns of some families of variables: `imgsz`, `keep`, `bits`, ..."""
        return [
            column
            for column, variable in enumerate(self.variables)
            if variable.name.split(":")[0] in names
        ]

    @cached_property
    def cost_columns(self) -> list[int]:
        """Which dimensions of cost are objectives: latency, and what else has a budget."""
        settings = self.problem.settings
        asked = (True, settings.energy is not None, settings.size is not None)
        return [dimension for dimension, wanted in enumerate(asked) if wanted]

    @property
    def families(self) -> list[list[int]]:
        """The columns of each family that varies and has more or less of something: not depth."""
        names = dict.fromkeys(variable.name.split(":")[0] for variable in self.variables)
        return [self.family(name) for name in names if name != "depth"]

    @property
    def left(self) -> int:
        """How many evaluations are left."""
        return self.problem.settings.evals - len(self.scored)

    def costs(self, genomes_NV: Genomes) -> Floats:
        """Predict latency, energy (0 where none is known) and size [N, D]."""
        batch = self.problem.costs(np.asarray(genomes_NV))
        columns = [np.broadcast_to(getattr(batch, name), (len(genomes_NV),)) for name in DIMENSIONS]
        return np.nan_to_num(np.stack(columns, axis=1).astype(np.float64))

    @cached_property
    def terms(self) -> list[Terms]:
        """The costs at each input size, in the order of `dense_NV`, as a sum of tables."""
        upper_V = self.upper_V.copy()
        if self.size_column is not None:
            upper_V[self.size_column] = 0
        parts = part_costs(self.problem.model, self.problem.space)
        return [decompose(parts, start_V, upper_V) for start_V in self.dense_NV]

    def targets(self) -> Iterator[tuple[Floats, Terms]]:
        """Yield each budget [D], infinite for none, with the costs at each input size.

        For methods that solve for one budget at one size.
        """
        for limit in self.problem.limits:
            for terms in self.terms:
                yield budgets_of(limit), terms

    def probe(self, genomes_NV: Genomes, title: str) -> list[Result]:
        """Return results of the cheapest rung, which knows agreement but no mAP."""
        log.info("%s", title)
        candidates = [self.problem.space.decode(genome) for genome in genomes_NV]
        return self.session.results(candidates, "proxy", title)

    def score(self, genomes_NV: Genomes, method: str) -> Floats:
        """Score genomes on the subset rung and keep the points; return their objectives [N, M].

        A genome scored before costs nothing.

        Args:
            genomes_NV: What to score.
            method: Who proposed them.

        Raises:
            Spent: There were more new genomes than evaluations left; those that fit are scored.
        """
        genomes_NV = self.problem.space.canonical(np.asarray(genomes_NV))
        new = dict.fromkeys(key for key in map(_key, genomes_NV) if key not in self.scored)
        affordable = set(list(new)[: self.left])
        self._score_new(
            [genome for genome in _distinct(genomes_NV) if _key(genome) in affordable], method
        )
        if affordable:
            self.report()
        if len(affordable) < len(new) or self.left == 0:
            raise Spent("all evaluations are spent")
        return np.array([self.objectives[_key(genome)] for genome in genomes_NV])

    def _score_new(self, genomes: list[Genomes], method: str) -> None:
        if genomes:
            tasks = [self.task(genome) for genome in genomes]
            title = f"{len(self.scored)} of {self.problem.settings.evals} candidates"
            self.take_in(genomes, tasks, self.session.results_of(tasks, title), method)

    def task(self, genome: Genomes) -> Task:
        """Return what is to be done to score a genome."""
        return Task(self.problem.space.decode(genome), "subset")

    def take_in(
        self,
        genomes: Sequence[Genomes],
        tasks: Sequence[Task],
        results: Sequence[Result],
        method: str,
    ) -> None:
        """Keep what came of genomes; see `score`."""
        costs = self.problem.costs(np.array(genomes))
        for row, (genome, task, result) in enumerate(zip(genomes, tasks, results, strict=True)):
            key = _key(genome)
            self.scored[key] = result
            self.objectives[key] = (FAILED,) * self.problem.objective_count
            if isinstance(result, Score):
                point = Point("", method, task.candidate, _row(costs, row), result)
                self.points[task.key[0]] = point
                self.objectives[key] = self.problem.objectives(point.cost, result)
                self.front.add(self.objectives[key], genome)
                for limit, best in self.best.items():
                    if limit.affordable(point.cost) and accuracy(result) > best:
                        self._best[limit] = Best(accuracy(result), point.cost.latency_ms)

    @property
    def lowest_useful(self) -> float:
        """The accuracy below which a point is not worth pursuing.

        It is half of the best within the tightest budget: what is less accurate than that can only
        be faster than anybody asked for. Without it most evaluations go to models that see nothing.
        """
        return 0.5 * self.best[self.problem.limits[0]]

    def hypervolume(self) -> float:
        """Return what the front covers of the box up to the dense model's costs and no accuracy."""
        return hypervolume(self.front.F_NM, self._reference_M)

    @cached_property
    def _reference_M(self) -> Floats:
        dense = self.problem.cost(self.problem.dense())
        values = (0.0, dense.latency_ms, dense.energy_mj, dense.size_bytes)
        return np.array(self.problem.objectives_of(*values))

    def report(self) -> None:
        """Log one line on how the search stands, and tell those who watch."""
        session = self.session
        best = {limit.text: best for limit, best in self._best.items()}
        evals = self.problem.settings.evals
        status = Status(len(self.scored), evals, self.hypervolume(), best)
        session.status = status
        session.note(status)
        log.info(
            "%d of %d candidates; hypervolume %.4f; best mAP50-95 so far: %s%s",
            status.scored,
            status.evals,
            status.hypervolume,
            ", ".join(f"{text} {value:.3f}" for text, value in status.map50_95.items()),
            f"; failed: {dict(session.failures)}" if session.failures else "",
        )


def _by_key(tasks: Sequence[Task]) -> dict[tuple[str, str], Task]:
    return {task.key: task for task in tasks}


def budgets_of(limit: Limits) -> Floats:
    """Return the budgets on latency, energy and size [D], infinite for none."""
    values = (limit.latency_ms, limit.energy_mj, limit.size_bytes)
    return np.array([np.inf if value is None else value for value in values])


def _row(costs: CostBatch, row: int) -> Cost:
    """Return one prediction of a batch; what lies in which layer is left out: it takes longer."""
    names = ("latency_ms", "low_ms", "high_ms", "energy_mj", "size_bytes", "macs")
    latency, low, high, energy, size, macs = (float(getattr(costs, name)[row]) for name in names)
    return Cost(latency, low, high, energy, size, macs, per_layer=())


def _key(genome: Genomes) -> bytes:
    return np.asarray(genome, dtype=np.int64).tobytes()


def _distinct(genomes_NV: Genomes) -> list[Genomes]:
    return list({_key(genome): genome for genome in genomes_NV}.values())
