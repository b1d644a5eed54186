"""How the clip of a symmetric grid is chosen from the magnitudes it must represent.

| module | what it holds |
| --- | --- |
| `minmax` | the largest magnitude: nothing saturates |
| `percentile` | the magnitude that few exceed |
| `mse` | least squared error |
| `kl` | least loss of information (entropy calibration) |
| `lapq` | least error in the norm that fits the bit width, and the search for that norm |
| `interface` | what they all promise |

Letters: R rows that get a clip each (output channels of a weight, groups of activations), N
magnitudes a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.quantization.calibrators.interface import Calibrator
from spaces.quantization.calibrators.kl import kl_clip
from spaces.quantization.calibrators.lapq import lapq_clip
from spaces.quantization.calibrators.minmax import minmax_clip
from spaces.quantization.calibrators.mse import mse_clip
from spaces.quantization.calibrators.percentile import percentile_clip
from spaces.quantization.grid import largest_integer, steps_on_grid

CALIBRATORS: dict[str, Calibrator] = {
    "minmax": minmax_clip,
    "percentile": percentile_clip,
    "mse": mse_clip,
    "kl": kl_clip,
    "lapq": lapq_clip,
}

__all__ = [
    "CALIBRATORS",
    "Calibrator",
    "kl_clip",
    "lapq_clip",
    "minmax_clip",
    "mse_clip",
    "percentile_clip",
    "weight_scales",
]


def weight_scales(weight: Tensor, bits: int, calibrator: Calibrator = mse_clip) -> Tensor:
    """Choose the step of each output channel of a weight.

    A channel that is on a grid of this bit width already keeps it, so that rounding it again
    changes nothing, whichever method rounded it first.

    Args:
        weight: [O, I, kh, kw].
        bits: 2 to 8.
        calibrator: How the clip is chosen.

    Returns:
        Positive steps [O].
    """
    rows = weight.detach().flatten(1)
    known = steps_on_grid(rows, bits)
    if (known > 0).all():
        return known
    chosen = calibrator(rows.abs(), torch.ones(1, 1), bits) / largest_integer(bits)
    return torch.where(known > 0, known, chosen)
