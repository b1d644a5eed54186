"""The default: exact seeds, then NSGA-II and local moves, screened by what the run has learnt.

1. Probe every variable alone (`search.sensitivity`).
2. Solve the additive problem for every budget, input size and rung of a ladder
   (`search.seeding.exact_seeds`): the first generation.
3. Each generation: crossover of the best (NSGA-II); the additive problem solved anew with the
   sensitivities perturbed, as SPDY searches, but around what the evaluations taught; steps of one
   or two variables from points of the front. A surrogate predicts the mAP of all of them, their
   cost is known, and those are evaluated that promise to be the best within a budget, or to move
   the front most.
4. It ends when the evaluations are spent, or when the front has ceased to grow.

Axis letters: N genomes, V variables, M objectives, D dimensions of cost.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np

from evaluators.score import Score
from search.explorer import Explorer, Floats, Genomes, Stop, budgets_of
from search.methods.genetic import BATCH, without_worthless
from search.optimizer import Optimizer
from search.problem import accuracy
from search.seeding import distinct, exact_seeds, price_directions, starts
from search.sensitivity import sweep
from search.solvers.descent import descend_from
from search.solvers.repair import neighbours, repair
from search.steady import evolve
from search.surrogate import Surrogate

log = logging.getLogger(__name__)

OFFSPRING = 4 * BATCH  # of which, and of the local moves, the surrogate chooses a generation
RESOLVED = 96  # additive problems solved anew a generation, over all input sizes
REPAIRED = 4  # budgets that one of them is brought to, a generation
NEAR = (0.93, 1.04)  # share of a budget that a genome costs before
AT_BUDGETS = 0.25  # largest share of a generation chosen to be the best within some budget
STEPPED = 2  # points of the front whose neighbours are all considered
PAIRS = 128  # changes of two variables considered
SPREAD = 0.5  # standard deviation of the log of a perturbed sensitivity
PATIENCE = 6  # generations without growth of the front before it is taken to be final
GROWTH = 1e-5  # relative growth of the hypervolume that counts


class Stagnant(Stop):
    """The front does not grow any more."""


def paretrim(explorer: Explorer) -> None:
    """Search the front for all budgets at once.

    Raises:
        Stagnant: The hypervolume has not grown for `PATIENCE` generations.
    """
    losses = sweep(explorer)
    learner = Learner(explorer, losses)
    seeds_NV = distinct(explorer.dense_NV, exact_seeds(explorer, losses))
    log.info("%d seeds from exact solutions of the additive model", len(seeds_NV))
    optimizer = Optimizer(
        seeds_NV,
        explorer.upper_V,
        explorer.problem.objective_count,
        BATCH,
        explorer.problem.settings.seed,
        OFFSPRING,
        explorer.problem.space.canonical,
    )
    volumes = list[float]()

    def ask() -> Genomes:
        if not volumes:  # the seeds
            return optimizer.ask()
        stop_if_stagnant(volumes)
        return optimizer.ask(learner.local_moves(), learner.screen)

    def tell(genomes_NV: Genomes, F_NM: Floats) -> None:
        learner.learn(genomes_NV)
        optimizer.tell(genomes_NV, without_worthless(explorer, F_NM))
        volumes.append(explorer.hypervolume())

    evolve(explorer, ask, tell, "seed", "paretrim")


def stop_if_stagnant(volumes: Sequence[float]) -> None:
    """Compare the hypervolumes [generations] at both ends of the last `PATIENCE` generations.

    Raises:
        Stagnant: It grew by less than `GROWTH`.
    """
    if len(volumes) > PATIENCE and volumes[-1] <= volumes[-1 - PATIENCE] * (1 + GROWTH):
        raise Stagnant(f"the front has not grown for {PATIENCE} generations")


class Learner:
    """What the run has learnt, and what follows from it for the next generation.

    Args:
        explorer: The exploration.
        losses: The sensitivity table.
    """

    def __init__(self, explorer: Explorer, losses: Sequence[Floats]) -> None:
        self._explorer = explorer
        self._losses = losses
        self._surrogate = Surrogate(losses)
        self._dense_map = np.zeros(len(explorer.dense_NV))  # by input size, once scored

    def learn(self, genomes_NV: Genomes) -> None:
        """Take in scored genomes."""
        results = [self._explorer.scored[genome.tobytes()] for genome in genomes_NV]
        for genome, result in zip(genomes_NV, results, strict=True):
            own = (genome == self._explorer.dense_NV).all(axis=1)
            if own.any() and isinstance(result, Score):
                self._dense_map[own] = accuracy(result)
        dense_map_N = np.maximum(self._dense_map[self._size_levels(genomes_NV)], 1e-9)
        for genome, result, dense_map in zip(genomes_NV, results, dense_map_N, strict=True):
            kept = accuracy(result) / dense_map if isinstance(result, Score) else 0.0
            self._surrogate.learn(genome, result, kept)
        self._surrogate.fit()

    def predict(self, genomes_NV: Genomes) -> Floats:
        """Predict the mAP50-95 [N] of genomes."""
        kept_N = self._surrogate.kept(genomes_NV)
        return np.asarray(kept_N * self._dense_map[self._size_levels(genomes_NV)])

    def local_moves(self) -> Genomes:
        """Return genomes [N, V] near the best known: solutions for other sensitivities, steps."""
        resolved_NV = self._resolve()
        return distinct(resolved_NV, self._on_budgets(resolved_NV), self._steps())

    def screen(self, genomes_NV: Genomes, count: int) -> Genomes:
        """Return the rows of `count` genomes that promise most, for the budgets and for the front.

        First, within each budget in turn, those of the highest predicted accuracy, if it is above
        what is known; then those that promise to move the front most. A genome's promise is its
        predicted accuracy, with as much noise as the prediction has, less the best accuracy known
        at no higher cost. Each chosen one counts as known for the next, so that the choice spreads
        over the front.
        """
        explorer = self._explorer
        costs_ND = explorer.costs(genomes_NV)
        costs_NC = costs_ND[:, explorer.cost_columns]
        noise_N = explorer.random.normal(0.0, self._surrogate.spread, len(genomes_NV))
        predicted_N = self.predict(genomes_NV) + noise_N * self._dense_map.max()
        F_KM = explorer.front.F_NM
        covers_NK = (F_KM[None, :, 1:] <= costs_NC[:, None]).all(axis=2)
        known_N = np.where(covers_NK, 1.0 - F_KM[None, :, 0], 0.0).max(axis=1, initial=0.0)
        known_N = np.maximum(known_N, explorer.lowest_useful)
        chosen = self._at_budgets(costs_ND, predicted_N, int(AT_BUDGETS * count))
        for row in chosen:
            covered_N = (costs_NC[row] <= costs_NC).all(axis=1)
            known_N = np.where(covered_N, np.maximum(known_N, predicted_N[row]), known_N)
        known_N[chosen] = np.inf
        for _ in range(min(count, len(genomes_NV)) - len(chosen)):
            best = int((predicted_N - known_N).argmax())
            chosen.append(best)
            covered_N = (costs_NC[best] <= costs_NC).all(axis=1)
            known_N = np.where(covered_N, np.maximum(known_N, predicted_N[best]), known_N)
            known_N[best] = np.inf
        return np.array(chosen, dtype=np.int64)

    def _at_budgets(self, costs_ND: Floats, predicted_N: Floats, count: int) -> list[int]:
        """Return up to `count` rows that promise more than is known within a budget, by turns."""
        orders = []
        for limit, known in self._explorer.best.items():
            within_N = (costs_ND <= budgets_of(limit)).all(axis=1)
            rows = np.flatnonzero(within_N & (predicted_N > known))
            orders.append(rows[np.argsort(-predicted_N[rows], kind="stable")][:count].tolist())
        turns = itertools.chain.from_iterable(itertools.zip_longest(*orders))
        return list(dict.fromkeys(row for row in turns if row is not None))[:count]

    def _resolve(self) -> Genomes:
        """Solve the additive problem with perturbed sensitivities at random prices."""
        explorer, random = self._explorer, self._explorer.random
        directions = np.array(price_directions(explorer))
        count = max(1, RESOLVED // len(explorer.terms))
        found = []
        for terms in explorer.terms:
            dense_D = np.maximum(terms.costs(terms.start_V[None])[0], 1e-12)
            prices_ND = directions[random.integers(0, len(directions), count)] / dense_D
            prices_ND = prices_ND * np.exp(random.uniform(np.log(0.01), np.log(300), (count, 1)))
            shape = (count, len(explorer.upper_V))
            perturbed = random.random(shape) < random.random((count, 1))
            scales_NV = np.exp(SPREAD * perturbed * random.standard_normal(shape))
            scales_NV = scales_NV * self._surrogate.weights_V
            start_SV = starts(explorer, terms)
            found.append(descend_from(terms, self._losses, prices_ND, start_SV, scales_NV))
        return np.concatenate(found)

    def _on_budgets(self, genomes_NV: Genomes) -> Genomes:
        """Bring one genome each to a few random budgets that it misses by little or leaves room in.

        Priced by the tables, corrected by their error at the genome: thrice as fast.
        """
        explorer, random = self._explorer, self._explorer.random
        weights_V = self._surrogate.weights_V
        losses = [column * weight for column, weight in zip(self._losses, weights_V, strict=True)]
        costs_ND = explorer.costs(genomes_NV)
        found = [genomes_NV[:0]]
        limits = explorer.problem.limits
        for number in random.permutation(len(limits))[:REPAIRED]:
            budgets_D = budgets_of(limits[number])
            limited = np.isfinite(budgets_D)
            ratio_N = (costs_ND[:, limited] / budgets_D[limited]).max(axis=1)
            near = np.flatnonzero((ratio_N > NEAR[0]) & (ratio_N < NEAR[1]))
            if not len(near):
                continue
            best = near[self.predict(genomes_NV[near]).argsort()[-8:]]
            row = int(random.choice(best))
            terms = explorer.terms[int(self._size_levels(genomes_NV[row : row + 1])[0])]
            error_D = terms.costs(genomes_NV[row : row + 1])[0] - costs_ND[row]
            fixed = np.flatnonzero(terms.upper_V == 0).tolist()
            genome = repair(genomes_NV[row], losses, terms.costs, budgets_D + error_D, fixed)
            found += [] if genome is None else [genome[None]]
        return np.concatenate(found)

    def _steps(self) -> Genomes:
        """Move one variable of some points of the front in all ways, two variables of others."""
        explorer, random = self._explorer, self._explorer.random
        useful = explorer.front.F_NM[:, 0] <= 1.0 - explorer.lowest_useful
        parents = [x for x, good in zip(explorer.front.items, useful, strict=True) if good]
        if not parents:
            return np.empty((0, len(explorer.upper_V)), dtype=np.int64)
        chosen = random.integers(0, len(parents), STEPPED)
        single = [neighbours(parents[row], self._losses)[0] for row in chosen]
        double_NV = np.array([parents[row] for row in random.integers(0, len(parents), PAIRS)])
        for _ in range(2):
            columns = random.integers(0, double_NV.shape[1], PAIRS)
            double_NV[np.arange(PAIRS), columns] = random.integers(0, explorer.upper_V[columns] + 1)
        return np.concatenate([*single, double_NV])

    def _size_levels(self, genomes_NV: Genomes) -> Genomes:
        column = self._explorer.size_column
        return genomes_NV[:, column] if column is not None else np.zeros(len(genomes_NV), int)
