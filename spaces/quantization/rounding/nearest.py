"""Rounding to nearest: every weight for itself."""

from __future__ import annotations

from torch import Tensor

from spaces.quantization.grid import largest_integer


def nearest(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round each weight to the nearest point of its row's grid; see `Rounding`."""
    del hessian_FF  # what the layer reads makes no difference
    top = largest_integer(bits)
    rows = weight.detach().flatten(1) / steps_O[:, None]
    return (rows.round_().clamp_(-top, top) * steps_O[:, None]).view_as(weight)
