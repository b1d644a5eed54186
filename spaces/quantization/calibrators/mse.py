"""Clip where the mean squared error is least."""

from __future__ import annotations

from torch import Tensor

from spaces.quantization.calibrators.power import least_power_clip


def mse_clip(magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
    """Clip where the mean squared error of rounding and saturating is least.

    c = argmin_c E[(|x| - Q(min(|x|, c)))^2], searched on a grid of ratios to the largest magnitude
    and once more, finer, around the best of them. (MSE clipping as in the error-limit method,
    Infrared and Laser Engineering 51(4) 20220166.)
    """
    return least_power_clip(magnitudes, counts, bits, 2.0)
