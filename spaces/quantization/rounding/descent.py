"""Coordinate descent: every weight again and again, given all others.

GPTQ rounds each weight once, without knowing how those after it will be rounded. Starting from its
result, each weight in turn is set to the grid point that is best with all others as they are:

    q_f = Q(q_f + ((w - q) H)_f / H_ff)

which never raises the layer's error (QuantEase, Behdin et al., arXiv 2309.01885).

Letters as in `gptq`; B features of one block.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spaces.quantization.grid import weight_range
from spaces.quantization.rounding.gptq import FloatArray, damped, gptq

PASSES = 2
BLOCK = 64  # features between two products with the whole Hessian


def descent(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round by GPTQ, then improve weight by weight; see `Rounding`."""
    return improved(weight, gptq(weight, hessian_FF, steps_O, bits), hessian_FF, steps_O, bits)


def improved(
    weight: Tensor, rounded: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int
) -> Tensor:
    """Return a rounding that is better than one given; arguments as in `Rounding`."""
    weight_FO, rounded_FO = (
        x.detach().flatten(1).T.float().contiguous().cpu().numpy().copy() for x in (weight, rounded)
    )
    hessian, steps = damped(hessian_FF).cpu().numpy(), steps_O.cpu().numpy()
    for _ in range(PASSES):
        _improve(weight_FO, rounded_FO, hessian, steps, weight_range(bits))
    return torch.from_numpy(rounded_FO).T.reshape(weight.shape).contiguous().to(weight.device)


def _improve(
    weight_FO: FloatArray,
    rounded_FO: FloatArray,
    hessian_FF: FloatArray,
    steps_O: FloatArray,
    ends: tuple[int, int],
) -> None:
    """Visit each feature once, in place."""
    for start in range(0, len(weight_FO), BLOCK):
        block = slice(start, start + BLOCK)
        pull_BO = hessian_FF[block] @ (weight_FO - rounded_FO)
        hessian_BB = hessian_FF[block, block]
        weight_BO, rounded_BO = weight_FO[block], rounded_FO[block]  # views
        for feature in range(len(pull_BO)):
            wanted_O = rounded_BO[feature] + pull_BO[feature] / hessian_BB[feature, feature]
            best_O = np.clip(np.rint(wanted_O / steps_O), *ends) * steps_O
            best_O *= weight_BO[feature] != 0  # what was pruned stays so
            pull_BO -= hessian_BB[:, feature, None] * (best_O - rounded_BO[feature])
            rounded_BO[feature] = best_O
