"""OBQ: round weight by weight, in the order that each row likes best.

Optimal Brain Quantizer (Frantar and Alistarh, arXiv 2208.11580): of the weights of a row that are
still free, the one is rounded whose rounding costs least, (w - q(w))^2 / [H^-1]_ff, weights that
saturate first; the free ones move by -e H^-1[:, f] / H^-1[f, f], and H^-1 loses feature f.

The orders differ between rows, so each row has a H^-1 of its own. It is kept for a block of
features at a time: what lies behind the block is moved once, when the block is done, to its optimum
given what the block became, which does not depend on the order inside. With one block this is the
method of the paper; with more it costs F / BLOCK times less.

Letters as in `gptq`; B features of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.grid import weight_range
from spaces.quantization.rounding.gptq import inverse_factor

BLOCK = 64
TINY_PIVOT = 1e-20


def obq(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round by OBQ; see `Rounding`."""
    order_F = hessian_FF.diagonal().argsort(descending=True, stable=True)
    factor_FF = inverse_factor(hessian_FF[order_F][:, order_F])
    free_OF = weight.detach().flatten(1)[:, order_F].float().clone()
    used_OF = free_OF != 0  # what was pruned stays so
    ends = weight_range(bits)
    for start in range(0, free_OF.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, free_OF.shape[1]))
        factor_BB = factor_FF[block, block]
        before_OB = free_OF[:, block].clone()
        inverse_BB = factor_BB.T @ factor_BB
        rounded_OB = _greedy(before_OB, used_OF[:, block], inverse_BB, steps_O, ends)
        free_OF[:, block] = rounded_OB
        later = slice(block.stop, None)
        free_OF[:, later] += _from_block(factor_BB, factor_FF[block, later], rounded_OB - before_OB)
    rounded_OF = torch.empty_like(free_OF)
    rounded_OF[:, order_F] = free_OF
    return rounded_OF.view(weight.shape)


def _from_block(factor_BB: Tensor, factor_BL: Tensor, change_OB: Tensor) -> Tensor:
    """Return how the later features follow a change of the block.

    That is change (H^-1_BB)^-1 H^-1_BL, and with H^-1 = U^T U it is change U_BB^-1 U_BL.
    """
    return change_OB @ torch.linalg.solve_triangular(factor_BB, factor_BL, upper=True)


def _greedy(
    weight_OB: Tensor, used_OB: Tensor, inverse_BB: Tensor, steps_O: Tensor, ends: tuple[int, int]
) -> Tensor:
    """Round the features of a block, in each row the cheapest first."""
    weight_OB, result_OB = weight_OB.clone(), torch.zeros_like(weight_OB)
    inverse_OBB = inverse_BB.expand(len(weight_OB), -1, -1).clone()
    rows = torch.arange(len(weight_OB))
    done_OB = torch.zeros_like(weight_OB, dtype=torch.bool)
    for _ in range(weight_OB.shape[1]):
        integers_OB = (weight_OB / steps_O[:, None]).round().clamp(*ends) * used_OB
        error_OB = weight_OB - integers_OB * steps_O[:, None]
        pivots_OB = inverse_OBB.diagonal(dim1=1, dim2=2).clamp_min(TINY_PIVOT)
        cost_OB = error_OB.square() / pivots_OB
        # what saturates only gets worse while it waits (section 5 of the paper)
        cost_OB[error_OB.abs() > steps_O[:, None] / 2 * 1.001] = -1
        cost_OB[done_OB] = torch.inf
        chosen_O = cost_OB.argmin(1)
        column_OB = inverse_OBB[rows, :, chosen_O]
        pivot_O = pivots_OB[rows, chosen_O]
        weight_OB -= column_OB * (error_OB[rows, chosen_O] / pivot_O)[:, None]
        result_OB[rows, chosen_O] = integers_OB[rows, chosen_O] * steps_O
        done_OB[rows, chosen_O] = True
        inverse_OBB -= column_OB[:, :, None] * (column_OB / pivot_O[:, None])[:, None]
    return result_OB
