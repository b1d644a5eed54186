"""AdaQuant: learn the weights before rounding, and the steps of their grids.

Hubara et al., arXiv 2006.10518: min over a change V of the weights and over the steps s of the
error of the layer's output with Q_s(W + V), with the straight-through estimator for rounding. The
bias, which the paper learns too, has a closed form and is corrected by whoever calls. All images
are taken at once, through their second moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.grid import weight_range
from spaces.quantization.rounding.layer_error import better_rows, normalised
from spaces.quantization.rounding.nearest import nearest

STEPS = 250
RATE = 0.03  # in steps of the grid
STEP_RATE = 0.002  # of the logarithm of a step


def adaquant(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round by AdaQuant, the best rounding of each row on the way; see `Rounding`.

    The steps of the result's grids are learnt: near the given ones, not the same.
    """
    ends = weight_range(bits)
    rows_OF = weight.detach().flatten(1).float()
    used_OF = rows_OF != 0  # what was pruned stays so
    unit_FF = normalised(hessian_FF)
    change_OF = torch.zeros_like(rows_OF, requires_grad=True)  # in given steps
    log_O = torch.zeros_like(steps_O, requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [change_OF], "lr": RATE}, {"params": [log_O], "lr": STEP_RATE}]
    )
    best = nearest(rows_OF, hessian_FF, steps_O, bits)
    for step in range(STEPS):
        with torch.enable_grad():
            now_O1 = (steps_O * log_O.exp())[:, None]
            wanted_OF = (rows_OF + change_OF * steps_O[:, None]) / now_O1
            inside_OF = wanted_OF.clamp(*ends)
            integers_OF = inside_OF + (inside_OF.round() * used_OF - inside_OF).detach()
            rounded_OF = integers_OF * now_O1
            missed_OF = (rounded_OF - rows_OF) / steps_O[:, None]
            loss = 2 * ((missed_OF @ unit_FF).detach() * missed_OF).sum()
        if step % 10 == 0:
            best = better_rows(rows_OF, hessian_FF, best, rounded_OF.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return better_rows(rows_OF, hessian_FF, best, rounded_OF.detach()).view(weight.shape)
