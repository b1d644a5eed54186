"""Rounding to nearest: every weight for itself."""

from __future__ import annotations

from torch import Tensor

from spaces.quantization.grid import weight_range


def nearest(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round each weight to the nearest point of its row's grid; see `Rounding`."""
    del hessian_FF  # what the layer reads makes no difference
    rows = weight.detach().flatten(1) / steps_O[:, None]
    return (rows.round_().clamp_(*weight_range(bits)) * steps_O[:, None]).view_as(weight)
