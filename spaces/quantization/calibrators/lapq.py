"""LAPQ: loss-aware post-training quantisation (Nahshan et al., arXiv 1911.07190).

Clips that are least in the p-th power of the error form a curve through the space of all clips of
a network; its best point for the task is where another search may start. Three steps: the clips of
some p, the p whose parabola through the measured losses is lowest, and Powell's method on all clips
at once. The first step needs no network: `lapq_clip` takes the p that suits a bit width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from spaces.quantization.calibrators.power import least_power_clip

POWERS = (2.0, 2.5, 3.0, 3.5, 4.0)
COARSE_POWER, FINE_POWER = 2.0, 4.0  # few levels: saturate freely; many: respect large values

FloatArray = NDArray[np.float64]


def lapq_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip where the error's p-th power is least; p rises from 2 at 2 bits to 4 at 8 bits."""
    power = COARSE_POWER + (FINE_POWER - COARSE_POWER) * (bits - 2) / 6
    return least_power_clip(magnitudes, counts, bits, power)


def best_power(powers: Sequence[float], losses: Sequence[float]) -> float:
    """Return the p where the parabola through the measured losses is lowest.

    Args:
        powers: At least three different p.
        losses: The network's loss with the clips of each.

    Returns:
        A p between the smallest and the largest given; the best measured one where the parabola
        has no lowest point between them.
    """
    curvature, slope, _ = np.polyfit(powers, losses, 2)
    if curvature > 0 and min(powers) <= (lowest := -slope / (2 * curvature)) <= max(powers):
        return float(lowest)
    return float(powers[int(np.argmin(losses))])


def refine(clips: FloatArray, loss: Callable[[FloatArray], float], evaluations: int) -> FloatArray:
    """Lower the task loss over all clips together, by Powell's method.

    Args:
        clips: Where to start, [G].
        loss: The network's loss with given clips.
        evaluations: How often it may be asked.

    Returns:
        The best clips that were asked for.
    """
    best, best_loss = clips, loss(clips)

    def of_factors(log_factors: FloatArray) -> float:
        nonlocal best, best_loss
        now = clips * np.exp(log_factors)
        if (value := loss(now)) < best_loss:
            best, best_loss = now, value
        return value

    minimize(
        of_factors,
        np.zeros(len(clips)),
        method="Powell",
        bounds=[(-0.5, 0.5)] * len(clips),
        options={"maxfev": max(evaluations - 1, 1), "xtol": 0.05, "ftol": 1e-3},
    )
    return best
