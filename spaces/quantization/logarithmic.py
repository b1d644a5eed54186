"""Logarithmic activations, with the shift that SiLU needs.

Levels are powers of two below the largest value: a product is a shift (Miyashita et al., arXiv
1603.01025). They cannot be negative, and SiLU can, down to -0.278; so it is shifted up before and
down after rounding: q = clip(round(-log2((x + shift) / top))), x~ = top 2^-q - shift. The constant
that is taken off again goes into the bias of the convolution, except where padding is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spaces.quantization.simulate import ActivationRounding

SILU_SHIFT = 0.278465  # minus the least value of x sigmoid(x)


@dataclass(frozen=True, slots=True)
class LogarithmicRounding(ActivationRounding):
    """Rounds x + shift to top * 2^-q with q = 0 .. 2^bits - 1; `clip` is the largest x."""

    clip: float
    bits: int
    shift: float = SILU_SHIFT

    def rounded(self, x: Tensor) -> Tensor:
        """Round to the nearest power in the logarithm."""
        top = self.clip + self.shift
        lowest = 2.0 ** -(2**self.bits - 1)
        share = ((x + self.shift) / top).clamp_(lowest, 1.0)
        return share.log2_().round_().exp2_().mul_(top).sub_(self.shift)
