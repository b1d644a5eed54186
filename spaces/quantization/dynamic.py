"""Dynamic activations: each image's own range, found while it runs.

No calibration and nothing ever saturates, at the price of looking at every tensor twice. Simulated:
none of the runtimes here executes it for convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spaces.quantization.grid import largest_integer
from spaces.quantization.simulate import ActivationRounding

TINY_PEAK = 1e-30


@dataclass(frozen=True, slots=True)
class DynamicRounding(ActivationRounding):
    """Rounds to a symmetric grid that ends at each image's largest magnitude."""

    bits: int

    def rounded(self, x: Tensor) -> Tensor:
        """Round every image to the grid of its own peak."""
        peaks = x.abs().amax((1, 2, 3), keepdim=True).clamp_min_(TINY_PEAK)
        steps = peaks / largest_integer(self.bits)
        return (x / steps).round_().mul_(steps)
