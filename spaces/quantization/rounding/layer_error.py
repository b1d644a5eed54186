"""What a rounding costs at the layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30


def layer_error(weight: Tensor, rounded: Tensor, hessian_FF: Tensor) -> Tensor:
    """Return the mean squared error of each output channel [O]: the diagonal of D H D^T.

    Args:
        weight: What the layer had, [O, I, kh, kw] or [O, F].
        rounded: What it has now.
        hessian_FF: Second moments of the layer's input.
    """
    delta_OF = (rounded - weight).detach().flatten(1)
    return ((delta_OF @ hessian_FF) * delta_OF).sum(1)


def better_rows(weight: Tensor, hessian_FF: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return of two roundings each output channel's better one, of equals the first."""
    errors_2O = torch.stack([layer_error(weight, x, hessian_FF) for x in (first, second)])
    take_O = (errors_2O[1] < errors_2O[0]).view(-1, *[1] * (weight.ndim - 1))
    return torch.where(take_O, second, first)


def normalised(hessian_FF: Tensor) -> Tensor:
    """Return a Hessian in units of its mean diagonal: learning rates then suit every layer."""
    return hessian_FF / hessian_FF.diagonal().mean().clamp_min(TINY)
