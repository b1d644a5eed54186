"""AdaRound: learn for each weight whether it is rounded up or down.

Nagel et al., Up or Down?, arXiv 2004.10568: W~ = s clip(floor(W/s) + h(V)) with the rectified
sigmoid h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1) minimises the error of the layer's output plus
lambda sum(1 - |2h - 1|^beta), whose beta falls from 20 to 2 and drives every h to 0 or 1. The
paper's batches of images are all taken at once here, through their second moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.grid import weight_range
from spaces.quantization.rounding.layer_error import better_rows, normalised
from spaces.quantization.rounding.nearest import nearest

STEPS = 250
RATE = 0.03
REGULARISATION = 0.01
WARM_UP = 0.2  # share of the steps without regularisation, as in the paper
BETA_START, BETA_END = 20.0, 2.0
STRETCH, OFFSET = 1.2, 0.1


def adaround(weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
    """Round by AdaRound, a row that does not gain to nearest; see `Rounding`."""
    ends = weight_range(bits)
    scaled_OF = weight.detach().flatten(1) / steps_O[:, None]
    floor_OF = scaled_OF.floor()
    rest_OF = scaled_OF - floor_OF
    unit_FF = normalised(hessian_FF)
    share = ((rest_OF + OFFSET) / STRETCH).clamp(1e-4, 1 - 1e-4)
    choice_OF = torch.logit(share).requires_grad_(True)
    optimizer = torch.optim.Adam([choice_OF], RATE)
    with torch.enable_grad():
        for step in range(STEPS):
            up_OF = _up(choice_OF)
            soft_OF = (floor_OF + up_OF).clamp(*ends)
            missed_OF = soft_OF - scaled_OF
            # the gradient of tr(D H D^T) is 2 D H: one product instead of three
            loss = 2 * ((missed_OF @ unit_FF).detach() * missed_OF).sum()
            if (progress := step / STEPS) > WARM_UP:
                loss = loss + REGULARISATION * _undecided(up_OF, progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    decided_OF = (floor_OF + (_up(choice_OF.detach()) >= 0.5)).clamp(*ends)
    learnt = (decided_OF * steps_O[:, None]).view(weight.shape) * (weight != 0)
    return better_rows(weight, hessian_FF, nearest(weight, hessian_FF, steps_O, bits), learnt)


def _up(choice_OF: Tensor) -> Tensor:
    return (STRETCH * choice_OF.sigmoid() - OFFSET).clamp(0, 1)


def _undecided(up_OF: Tensor, progress: float) -> Tensor:
    done = (progress - WARM_UP) / (1 - WARM_UP)
    beta = BETA_END + (BETA_START - BETA_END) * (1 - done)
    return (1 - (2 * up_OF - 1).abs().pow(beta)).sum()
