"""Cheap guesses at mAP: how well each ranks, and what they say together. All within the run.

A proxy is a number known at no cost beside the subset's: distortion and agreement (measured on
`PROXY_IMAGES`), and the additive loss of the genome. `mAP` on few images is itself noisy, so the
proxies are worth something even where it is known: `Combination` fits a small monotone regression,
and `smoothed` weighs the measured value against the fitted one.

Axis letters: N candidates, P proxies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, nnls
from scipy.stats import spearmanr

from evaluators.score import Score

Floats = npt.NDArray[np.float64]

FEWEST = 12  # points below which nothing is fitted
LEAST_NOISE = 0.005


def proxies_of(scores: Sequence[Score], additive_N: Floats | None = None) -> dict[str, Floats]:
    """Return each proxy [N], all of them losses: 0 for dense, larger is worse."""
    values = {
        "distortion": np.array([score.distortion for score in scores]),
        "disagreement": np.array([1.0 - score.agreement for score in scores]),
    }
    return values if additive_N is None else {**values, "additive": additive_N}


def rank_correlations(proxies: Mapping[str, Floats], accuracy_N: Floats) -> dict[str, float]:
    """Return Spearman's correlation of each proxy with the loss of accuracy; NaN if undefined."""
    if len(accuracy_N) < 3 or np.ptp(accuracy_N) == 0:
        return dict.fromkeys(proxies, float("nan"))
    return {
        name: float(spearmanr(values, -accuracy_N)[0]) if np.ptp(values) > 0 else float("nan")
        for name, values in proxies.items()
    }


class Combination:
    """A monotone prediction of accuracy from several proxies.

    Ranks of the proxies are added up with weights that are not negative, and a falling curve leads
    from the sum to accuracy: no proxy's scale matters, and more loss never means more accuracy.

    Args:
        proxies: Name -> values [N].
        accuracy_N: The accuracy to predict.

    Attributes:
        weights: Name -> weight, summing to 1.
        spread: Standard deviation of accuracy about its prediction on the fitted points.
    """

    def __init__(self, proxies: Mapping[str, Floats], accuracy_N: Floats) -> None:
        self._sorted = {name: np.sort(values) for name, values in proxies.items()}
        ranks_NP = self._ranks(proxies)
        lost_N = _ranks(-accuracy_N, np.sort(-accuracy_N))
        weights_P, _ = nnls(ranks_NP, lost_N)
        if weights_P.sum() == 0:
            weights_P = np.ones(len(weights_P))
        self._weights_P = weights_P / weights_P.sum()
        self.weights = dict(zip(proxies, self._weights_P.tolist(), strict=True))
        total_N = ranks_NP @ self._weights_P
        order = total_N.argsort(kind="stable")
        fitted = isotonic_regression(accuracy_N[order], increasing=False).x
        self._curve = total_N[order], np.asarray(fitted)
        self.spread = float(np.sqrt(np.mean((accuracy_N[order] - fitted) ** 2)))

    def predict(self, proxies: Mapping[str, Floats]) -> Floats:
        """Return the predicted accuracy [N]."""
        return np.asarray(np.interp(self._ranks(proxies) @ self._weights_P, *self._curve))

    def _ranks(self, proxies: Mapping[str, Floats]) -> Floats:
        return np.stack([_ranks(proxies[name], known) for name, known in self._sorted.items()], 1)


def _ranks(values_N: Floats, known: Floats) -> Floats:
    """Return where values stand among sorted known ones, 0..1, linear between them."""
    return np.asarray(np.interp(values_N, known, np.linspace(0.0, 1.0, len(known))))


def smoothed(scores: Sequence[Score], dense_N: Floats) -> tuple[Floats, float]:
    """Return the accuracy [N] that the subset's mAP and the proxies together speak for.

    Both are off: the mAP by the luck of its images, the prediction by what the proxies do not see.
    How far they lie apart tells how large both errors are together, resampled images tell the
    first; each is weighed by the other's share.

    Args:
        scores: Of rung "subset".
        dense_N: For each, the dense model's mAP50-95 at the same input size.

    Returns:
        The accuracy, and the standard deviation of its error, at least half a percent.
    """
    measured_N = np.array([score.map50_95 or 0.0 for score in scores])
    luck = image_noise(scores)
    if len(scores) < FEWEST:
        return measured_N, 0.01 if luck is None else max(LEAST_NOISE, luck)
    proxies = proxies_of(scores)
    kept_N = measured_N / np.maximum(dense_N, 1e-9)
    combination = Combination(proxies, kept_N)
    predicted_N = combination.predict(proxies) * dense_N
    apart = max(float(combination.spread * dense_N.max()), 1e-9)
    share = 0.5 if luck is None else min(1.0, (luck / apart) ** 2)  # of the prediction
    noise = max(LEAST_NOISE, apart * (share * (1 - share)) ** 0.5)
    return (1 - share) * measured_N + share * predicted_N, noise


def image_noise(scores: Sequence[Score]) -> float | None:
    """Return the standard deviation of an mAP by the luck of its images, when models are compared.

    From models that are next to each other in mAP: the spread of the difference of two on resampled
    images, which are the same for both. What luck all models share does not matter. None where no
    resamples are known.
    """
    known = sorted((s for s in scores if s.resampled), key=lambda s: s.map50_95 or 0.0)
    if len(known) < 3:
        return None
    differences_NB = np.diff([score.resampled for score in known], axis=0)
    return float(np.median(differences_NB.std(axis=1)) / 2**0.5)


def describe(proxies: Mapping[str, Floats], accuracy_N: Floats) -> str:
    """Say in one line how well the proxies rank and how they are combined."""
    correlations = rank_correlations(proxies, accuracy_N)
    ranked = ", ".join(f"{name} {value:.3f}" for name, value in correlations.items())
    if len(accuracy_N) < FEWEST:
        return f"Spearman with the share of the dense mAP: {ranked}"
    combination = Combination(proxies, accuracy_N)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in combination.weights.items())
    return (
        f"Spearman with the share of the dense mAP over {len(accuracy_N)} candidates: {ranked}; "
        f"together (weights {weights}) it is predicted to {combination.spread:.3f}"
    )
