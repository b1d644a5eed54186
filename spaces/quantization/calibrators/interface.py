"""What every calibrator promises."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Calibrator(Protocol):
    """Chooses one clip a row. Every calibrator is a function of this form, listed in CALIBRATORS.

    Its clips are positive and at most the row's largest magnitude (1 for a row of zeros), scale
    with the row, and depend neither on the order of magnitudes nor on other rows.
    """

    def __call__(self, magnitudes: Tensor, counts: Tensor, bits: int) -> Tensor:
        """Choose clips.

        Args:
            magnitudes: [R, N], not negative.
            counts: How often each occurs, [R, N] or broadcastable to it; 0 for not at all.
            bits: Bit width of the grid, 2 to 8.

        Returns:
            Clips [R].
        """
