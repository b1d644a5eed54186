"""What every rounding promises."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rounding(Protocol):
    """Rounds one layer. Every rounding is a function of this form, listed in ROUNDINGS.

    Its results lie on a symmetric grid of the bit width; rows do not depend on each other, a weight
    that is on the given grid stays as it is, and zeros (what was pruned) stay zeros.
    """

    def __call__(self, weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
        """Round a weight.

        Args:
            weight: [O, I, kh, kw] or [O, F].
            hessian_FF: Second moments of the layer's input, symmetric and positive semidefinite,
                in any unit.
            steps_O: Step of each output channel's grid.
            bits: 2 to 8.

        Returns:
            The rounded weight, float32, in the shape of `weight`.
        """
