"""Steps that are powers of two: rescaling becomes a shift.

The *shift quantiser*: q = round(w 2^fl) with fl = b - 1 - ceil(log2 max|w|), against the *multiply
quantiser* with any step (Infrared and Laser Engineering 51(4) 20220166). Cheap integer hardware has
no multiplier after its accumulators; the grid is up to twice as coarse for that.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spaces.quantization.grid import ActivationScales, largest_integer


def power_of_two_steps(steps: Tensor) -> Tensor:
    """Return the smallest powers of two that are not below the steps, in the same shape."""
    mantissa, exponent = torch.frexp(steps)  # mantissa in [.5, 1)
    return torch.ldexp(torch.ones_like(steps), exponent - (mantissa == 0.5).int())


def power_of_two_scales(scales: ActivationScales) -> ActivationScales:
    """Return activation scales whose every step is a power of two, none finer than before."""
    clips = {
        group: {
            bits: float(power_of_two_steps(torch.tensor(clip / largest_integer(bits))))
            * largest_integer(bits)
            for bits, clip in row.items()
        }
        for group, row in scales.clips.items()
    }
    return replace(scales, clips=clips)
