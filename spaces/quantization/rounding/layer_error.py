"""What a rounding costs at the layer's output."""

from __future__ import annotations

from torch import Tensor


def layer_error(weight: Tensor, rounded: Tensor, hessian_FF: Tensor) -> Tensor:
    """Return the mean squared error of each output channel [O]: the diagonal of D H D^T.

    Args:
        weight: What the layer had, [O, I, kh, kw] or [O, F].
        rounded: What it has now.
        hessian_FF: Second moments of the layer's input.
    """
    delta_OF = (rounded - weight).detach().flatten(1)
    return ((delta_OF @ hessian_FF) * delta_OF).sum(1)
