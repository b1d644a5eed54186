"""GPTQ: round weight by weight, and let those not yet rounded make up for the error.

Optimal Brain Surgeon for quantisation (Frantar and Alistarh, OBC/OBQ, arXiv 2208.11580) rounds the
weights of a row one after the other and, with H^-1 the inverse of the second moments of what is
still free, adds -e H^-1[:, f] / H^-1[f, f] to the free ones, e = w_f - q(w_f). GPTQ (Frantar et
al., arXiv 2210.17323) takes the same order in all rows: the H^-1 of all steps are then the rows of
one Cholesky factor, and rows are rounded together. The order is by falling H[f, f], so that
features with much energy are rounded while much is free to make up for it.

Letters: O rows, F features in the order of rounding; weights are kept transposed (FO), for a
feature of all rows is what is worked on at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaces.quantization.grid import weight_range

DAMPING = 0.01  # of the mean diagonal, as in both papers
BLOCK = 64  # features between two updates of all that come later
TINY_DIAGONAL = 1e-12  # keeps a layer of dead inputs solvable

FloatArray = NDArray[np.float32]


def gptq(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round by GPTQ; see `Rounding`."""
    order_F = hessian_FF.diagonal().argsort(descending=True, stable=True)
    factor_FF = inverse_factor(hessian_FF[order_F][:, order_F])
    rows = weight.detach().flatten(1)
    weight_FO = np.ascontiguousarray(rows[:, order_F].T.float().cpu().numpy())
    steps = steps_O.float().cpu().numpy()
    _round_in_order(weight_FO, factor_FF.cpu().numpy(), steps, weight_range(bits))
    rounded = torch.empty_like(rows, dtype=torch.float32)
    rounded[:, order_F] = torch.from_numpy(weight_FO).T.to(rows.device)
    return rounded.view(weight.shape)


def inverse_factor(hessian_FF: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a damped Hessian, float32."""
    damped_FF = damped(hessian_FF).double()
    # Factored from the last feature on, H = V V^T with V upper; then H^-1 = U^T U with U = V^-1.
    upper_FF = torch.linalg.cholesky(damped_FF.flip(0, 1)).flip(0, 1)
    identity_FF = torch.eye(len(damped_FF), dtype=torch.float64)
    return torch.linalg.solve_triangular(upper_FF, identity_FF, upper=True).float().contiguous()


def damped(hessian_FF: Tensor) -> Tensor:
    """Return a Hessian with a part of its mean diagonal added, so that it can be inverted."""
    damping = DAMPING * hessian_FF.diagonal().mean() + TINY_DIAGONAL
    return hessian_FF + damping * torch.eye(len(hessian_FF))


def _round_in_order(
    weight_FO: FloatArray, factor_FF: FloatArray, steps_O: FloatArray, ends: tuple[int, int]
) -> None:
    """Round in place, feature 0 first."""
    features = len(weight_FO)
    used_FO = weight_FO != 0  # what was pruned stays so
    for start in range(0, features, BLOCK):
        stop = min(start + BLOCK, features)
        errors_BO = np.empty((stop - start, weight_FO.shape[1]), dtype=np.float32)
        for feature in range(start, stop):
            now_O = weight_FO[feature]
            rounded_O = np.clip(np.rint(now_O / steps_O), *ends) * steps_O * used_FO[feature]
            error_O = (now_O - rounded_O) / factor_FF[feature, feature]
            later = slice(feature + 1, stop)
            weight_FO[later] -= factor_FF[feature, later, None] * error_O
            weight_FO[feature] = rounded_O
            errors_BO[feature - start] = error_O
        weight_FO[stop:] -= factor_FF[start:stop, stop:].T @ errors_BO
