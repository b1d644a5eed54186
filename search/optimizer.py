"""Ask/tell over pymoo's NSGA-II on integer genomes, guarded.

Axis letters: X_NV = N genomes x V variables (0 = densest level), F_NM = N genomes x M objectives,
all minimised. pymoo accepts NaN objectives and unknown genomes in silence; this wrapper refuses
both. Genomes that were ever asked for are not asked for again. More may be asked for while some are
still pending; only the first generation, the seeds, must be told before.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 2002.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.termination.max_gen import MaximumGenerationTermination

Genomes = npt.NDArray[np.int64]
Objectives = npt.NDArray[np.float64]

Screen = Callable[[Genomes, int], npt.NDArray[np.int64]]
"""Genomes [N, V] and how many to choose -> rows of the chosen ones."""


class StepMutation(Mutation):
    """Move about two variables of a genome by one or two levels.

    A compressed net dies when many variables jump at once, so steps are few and small.
    """

    def _do(
        self,
        problem: Problem,
        X: Genomes,
        *args: object,
        random_state: np.random.Generator,
        **kwargs: object,
    ) -> Genomes:
        moved = random_state.random(X.shape) < min(1.0, 2.0 / problem.n_var)
        steps = random_state.choice([-2, -1, 1, 2], size=X.shape, p=[0.15, 0.35, 0.35, 0.15])
        return np.clip(X + moved * steps, problem.xl, problem.xu).astype(np.int64)


class NewGenomes(DuplicateElimination):
    """Let each genome through once in a run.

    Args:
        asked: The genomes asked for so far, as bytes; kept by the optimizer.
    """

    def __init__(self, asked: set[bytes]) -> None:
        super().__init__()
        self.asked = asked

    def do(self, pop: Population, *others: Population, **kwargs: object) -> Population:
        """Return the individuals of `pop` that neither were asked for nor stand in `others`."""
        taken = {_key(genome) for other in others for genome in other.get("X")} | self.asked
        fresh: dict[bytes, int] = {}
        for index, genome in enumerate(pop.get("X")):
            if _key(genome) not in taken:
                fresh.setdefault(_key(genome), index)
        return pop[list(fresh.values())]


def _key(genome: Genomes) -> bytes:
    return np.asarray(genome, dtype=np.int64).tobytes()


class Optimizer:
    """NSGA-II over integer genomes as ask/tell.

    Args:
        seeds_NV: Genomes of the first generation, distinct, each in `0..upper_V`.
        upper_V: Largest level of each variable.
        objectives: Number of objectives M.
        batch: Genomes a generation after the first.
        seed: Seed of all random choices; the same tells give the same asks.
        offspring: Offspring a generation, of which `batch` are asked for; None for `batch`.
        canonical: Turns genomes [N, V] of the same candidate into the same genome, which is what is
            asked for; None where there are no such genomes.

    Raises:
        ValueError: A seed genome outside its bounds or of the wrong length.
    """

    def __init__(
        self,
        seeds_NV: Genomes,
        upper_V: Genomes,
        objectives: int,
        batch: int,
        seed: int,
        offspring: int | None = None,
        canonical: Callable[[Genomes], Genomes] | None = None,
    ) -> None:
        seeds_NV = np.asarray(seeds_NV, dtype=np.int64)
        upper_V = np.asarray(upper_V, dtype=np.int64)
        if seeds_NV.ndim != 2 or seeds_NV.shape[1] != len(upper_V):
            raise ValueError(
                f"seeds: expected shape [N, {len(upper_V)}], got {list(seeds_NV.shape)}"
            )
        if (seeds_NV < 0).any() or (seeds_NV > upper_V).any():
            raise ValueError("seeds: a level lies outside 0..upper")
        self._asked: set[bytes] = set()
        self._batch = batch
        self._canonical = canonical or (lambda genomes_NV: genomes_NV)
        self._pending = set[bytes]()
        self._algorithm = NSGA2(
            pop_size=max(batch, len(seeds_NV)),
            n_offsprings=offspring or batch,
            sampling=Population.new("X", seeds_NV),
            crossover=UniformCrossover(prob=0.7),
            mutation=StepMutation(),
            eliminate_duplicates=NewGenomes(self._asked),
        )
        problem = Problem(
            n_var=len(upper_V), n_obj=objectives, xl=np.zeros_like(upper_V), xu=upper_V, vtype=int
        )
        self._algorithm.setup(
            problem, seed=seed, termination=MaximumGenerationTermination(10**9), verbose=False
        )

    def ask(self, proposals_NV: Genomes | None = None, screen: Screen | None = None) -> Genomes:
        """Return the next genomes [N, V] to evaluate; N is 0 when no new genome can be found.

        Args:
            proposals_NV: Genomes from elsewhere that compete with the offspring.
            screen: Chooses among all of them; None takes the offspring first, then proposals.

        Raises:
            RuntimeError: Of the first generation nothing was told yet.
        """
        first = not self._asked
        if not first and not self._algorithm.is_initialized:
            raise RuntimeError("ask() again before tell(): the first genomes are still pending")
        offspring = self._algorithm.ask()
        genomes_NV = np.empty((0, self._algorithm.problem.n_var), dtype=np.int64)
        if offspring is not None and len(offspring):
            genomes_NV = np.array(offspring.get("X"), dtype=np.int64)
        if proposals_NV is not None and not first:
            genomes_NV = np.concatenate([genomes_NV, proposals_NV])
        genomes_NV = self._fresh(self._canonical(genomes_NV))
        if len(genomes_NV) == 0:
            return genomes_NV
        if not first and screen is not None:
            genomes_NV = genomes_NV[screen(genomes_NV, self._batch)]
        elif not first:
            genomes_NV = genomes_NV[: self._batch]
        self._pending.update(map(_key, genomes_NV))
        self._asked.update(map(_key, genomes_NV))
        return genomes_NV

    def _fresh(self, genomes_NV: Genomes) -> Genomes:
        rows = {_key(x): x for x in genomes_NV if _key(x) not in self._asked}
        return np.array(list(rows.values()), dtype=np.int64).reshape(-1, genomes_NV.shape[1])

    def tell(self, genomes_NV: Genomes, F_NM: Objectives) -> None:
        """Take the objectives of genomes that were asked for.

        Args:
            genomes_NV: Some of those not told yet, of one ask or of several.
            F_NM: Their minimised objectives; rows of `FAILED` mark failures.

        Raises:
            RuntimeError: A genome was not asked for, or was told already.
            ValueError: Wrong shape, or a value that is not finite.
        """
        expected = (len(genomes_NV), self._algorithm.problem.n_obj)
        if F_NM.shape != expected:
            raise ValueError(f"objectives: expected shape {expected}, got {F_NM.shape}")
        if not np.isfinite(F_NM).all():
            raise ValueError("objectives: NaN or infinity; tell FAILED for a failed genome")
        told = set(map(_key, genomes_NV))
        if not told or not told <= self._pending:
            raise RuntimeError("tell() without ask(): these genomes are not pending")
        self._pending -= told
        population = Population.new("X", np.asarray(genomes_NV, dtype=np.int64))
        population.set("F", F_NM)
        for individual in population:
            individual.evaluated.update({"F", "G", "H"})
        self._algorithm.tell(infills=population)
