"""What a candidate's mAP will be, predicted before it is evaluated; learnt within the run.

Two steps. The additive loss of a genome, corrected: every variable's losses are scaled by a weight
fitted to the joint losses seen so far, ridge regression towards 1 (the corrected table is better
where changes help or hurt each other). Then the share of the dense model's mAP that this loss
leaves: a falling curve through the scored points (isotonic regression), times the dense mAP at the
candidate's input size.

Axis letters: N genomes, V variables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from evaluators.score import Failed, Score
from search.sensitivity import LOST, Floats, Genomes, additive_loss

TRUST = 0.05  # variance of a joint loss not explained, over the variance of weights: ridge strength
DEAD = 2.5  # joint losses above it say only that nothing is left


class Surrogate:
    """Predicts the share of the dense mAP that genomes keep.

    Args:
        losses: Of each variable, its levels' losses when moved alone.

    Attributes:
        weights_V: Factor on each variable's losses.
        spread: Standard deviation of what was kept about what is predicted.
    """

    def __init__(self, losses: Sequence[Floats]) -> None:
        longest = max(map(len, losses))
        self._table_VL = np.array([np.pad(x, (0, longest - len(x)), "edge") for x in losses])
        count = len(losses)
        self.weights_V = np.ones(count)
        self.spread = 0.0
        self._gram_VV = TRUST * np.eye(count)
        self._moment_V = np.zeros(count)
        self._own_NV = np.empty((256, count), dtype=np.float32)  # of what was seen; grows
        self._kept_N = np.empty(256)
        self._seen = 0
        self._curve = (np.array([0.0, LOST]), np.array([1.0, 0.0]))

    def learn(self, genome_V: Genomes, result: Score | Failed, kept: float) -> None:
        """Take in an evaluated genome.

        Args:
            genome_V: The genome.
            result: Its result.
            kept: Its mAP over the dense model's at the same input size.
        """
        own_V = self._own(genome_V[None])[0]
        if self._seen == len(self._kept_N):
            self._own_NV = np.concatenate([self._own_NV, np.empty_like(self._own_NV)])
            self._kept_N = np.concatenate([self._kept_N, np.empty_like(self._kept_N)])
        self._own_NV[self._seen], self._kept_N[self._seen] = own_V, kept
        self._seen += 1
        joint = additive_loss(result)
        if joint < DEAD:
            self._gram_VV += np.outer(own_V, own_V)
            self._moment_V += own_V * (joint - own_V.sum())

    def fit(self) -> None:
        """Bring weights and curve up to date with all that was learnt."""
        shift_V = np.linalg.solve(self._gram_VV, self._moment_V)
        self.weights_V = np.clip(1.0 + shift_V, 0.2, 3.0)
        weights_V = self.weights_V.astype(np.float32)
        losses_N = (self._own_NV[: self._seen] @ weights_V).astype(np.float64)
        order = losses_N.argsort(kind="stable")
        kept_N = self._kept_N[order]
        fitted = isotonic_regression(kept_N, increasing=False).x
        self.spread = float(np.std(kept_N - fitted))
        self._curve = (
            np.r_[0.0, losses_N[order], losses_N.max() + LOST],
            np.r_[max(1.0, fitted[0]), fitted, 0.0],
        )

    def loss(self, genomes_NV: Genomes) -> Floats:
        """Return the corrected additive loss [N]."""
        return np.asarray(self._own(genomes_NV) @ self.weights_V)

    def kept(self, genomes_NV: Genomes) -> Floats:
        """Return the predicted share of the dense mAP that genomes keep [N]."""
        return np.asarray(np.interp(self.loss(genomes_NV), *self._curve))

    def _own(self, genomes_NV: Genomes) -> Floats:
        return np.asarray(self._table_VL[np.arange(len(self._table_VL)), genomes_NV])
