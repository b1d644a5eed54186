"""Optimal Brain Surgeon: what removing a weight costs when all others make up for it.

A layer's squared output error is e H e^T for each row of weights, with e the change and H the
second moments of what it reads. To remove w_f costs w_f^2 / [H^-1]_ff, the others changing by
-w_f H^-1_:f / [H^-1]_ff (Hassibi and Stork, 1992, there with a factor of 1/2). Removing weight
after weight with H^-1 brought up to date is OBC (Frantar and Alistarh, arXiv 2208.11580). SparseGPT
(arXiv 2301.00774) judges many weights at once, as if each were the only one, and so does
`spaces.sparsity.sparsify` before it fits those that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.05  # of the mean diagonal; as evaluators.refit
TINY = 1e-12  # keeps a layer of dead inputs solvable


def damped(hessian_FF: Tensor) -> Tensor:
    """Return a Hessian that can be inverted."""
    diagonal = hessian_FF.diagonal()
    return hessian_FF + torch.eye(len(hessian_FF)) * (RIDGE * diagonal.mean() + TINY)


def importance(weight_OF: Tensor, hessian_FF: Tensor) -> Tensor:
    """Return what removing each weight alone would cost [O, F].

    Args:
        weight_OF: Rows of weights.
        hessian_FF: Positive definite.
    """
    factor = torch.linalg.cholesky(hessian_FF)
    return weight_OF**2 / torch.cholesky_inverse(factor).diagonal()


def remove(weight_OF: Tensor, hessian_FF: Tensor, count: int) -> Tensor:
    """Remove weights one by one, each time the cheapest, in every row.

    Exact, in O * count * F^2 steps and O * F^2 numbers: for small layers.

    Args:
        weight_OF: Rows of weights.
        hessian_FF: Positive definite.
        count: Number of weights of a row to remove, at most F.

    Returns:
        The rows with `count` weights exactly 0 and the others changed to make up for it.
    """
    rows = torch.arange(len(weight_OF))
    weight_OF = weight_OF.double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian_FF.double()))
    inverse_OFF = inverse.repeat(len(rows), 1, 1)
    removed_OF = torch.zeros_like(weight_OF, dtype=torch.bool)
    for _ in range(count):
        diagonal_OF = inverse_OFF.diagonal(dim1=1, dim2=2).masked_fill(removed_OF, 1.0)
        cost_OF = (weight_OF**2 / diagonal_OF).masked_fill(removed_OF, torch.inf)
        worst_O = cost_OF.argmin(1)
        column_OF = inverse_OFF[rows, :, worst_O]
        pivot_O1 = column_OF[rows, worst_O][:, None]
        weight_OF = weight_OF - weight_OF[rows, worst_O][:, None] / pivot_O1 * column_OF
        inverse_OFF -= column_OF[:, :, None] * (column_OF / pivot_O1)[:, None]
        removed_OF[rows, worst_O] = True
        weight_OF[removed_OF] = 0.0
    return weight_OF.float()
