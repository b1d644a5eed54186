"""AdaPrune: a mask is given; the weights that are left are fitted again, layer by layer.

Hubara et al., arXiv 2102.08124, convert a trained network to N:M sparsity so, on calibration
images, by gradient descent on each layer's output error. That error is quadratic, so its minimum is
had by solving: with H the second moments of what the layer reads and K the kept weights of a row w,

    w'_K = (H_KK)^-1 (H w)_K

Every row has a mask, and so a system, of its own; they are solved in batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_BATCH = 1 << 24  # numbers in the systems solved at once: 64 MB


def fit(weight_OF: Tensor, mask_OF: Tensor, hessian_FF: Tensor) -> Tensor:
    """Return the rows that come nearest to the outputs of `weight_OF` with a mask.

    Args:
        weight_OF: Rows of weights.
        mask_OF: Which may be other than 0.
        hessian_FF: Positive definite.
    """
    fitted_OF = torch.zeros_like(weight_OF)
    target_OF = weight_OF @ hessian_FF
    kept = int(mask_OF.sum(1).max())
    if kept == 0:
        return fitted_OF
    rows = max(1, LARGEST_BATCH // kept**2)
    parts = zip(mask_OF.split(rows), target_OF.split(rows), fitted_OF.split(rows), strict=True)
    for mask, target, fitted in parts:
        # Rows with fewer kept weights are filled up with removed ones, which stay 0.
        index_RK = mask.int().argsort(dim=1, descending=True, stable=True)[:, :kept]
        real_RK = mask.gather(1, index_RK)
        system_RKK = hessian_FF[index_RK[:, :, None], index_RK[:, None]]
        system_RKK *= real_RK[:, :, None] & real_RK[:, None]
        system_RKK.diagonal(dim1=1, dim2=2).add_(~real_RK)
        solved = torch.cholesky_solve(
            (target.gather(1, index_RK) * real_RK)[..., None], torch.linalg.cholesky(system_RKK)
        )
        fitted.scatter_(1, index_RK, solved[..., 0] * real_RK)
    return fitted_OF
