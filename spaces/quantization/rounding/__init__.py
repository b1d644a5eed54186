"""How the weights of a layer become points of its grid, one method a module.

| module | what it holds |
| --- | --- |
| `nearest` | every weight for itself |
| `gptq` | weight by weight, those not yet rounded making up for the error of the others |
| `layer_error` | what a rounding costs at the layer's output |

All methods but `nearest` lower the squared error of the layer's output on calibration images,
tr(D H D^T) / O with D = rounded - weight and H the second moments of the layer's input, so that H
is all they need to know of the images. Axis letters here: O output channels (rows of a weight), F
features (its columns: input channels times taps of the kernel, in the order of `flatten(1)`).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from spaces.quantization.rounding.gptq import gptq
from spaces.quantization.rounding.layer_error import layer_error
from spaces.quantization.rounding.nearest import nearest


class Rounding(Protocol):
    """Rounds one layer. Every rounding is a function of this form, listed in ROUNDINGS.

    Its results lie on a symmetric grid of the bit width; rows do not depend on each other, and a
    weight that is on the given grid stays as it is.
    """

    def __call__(self, weight: Tensor, hessian_FF: Tensor, steps_O: Tensor, bits: int) -> Tensor:
        """Round a weight.

        Args:
            weight: [O, I, kh, kw] or [O, F].
            hessian_FF: Second moments of the layer's input, symmetric and positive semidefinite,
                in any unit.
            steps_O: Step of each output channel's grid.
            bits: 2 to 8.

        Returns:
            The rounded weight, float32, in the shape of `weight`.
        """


ROUNDINGS: dict[str, Rounding] = {"nearest": nearest, "gptq": gptq}

__all__ = ["ROUNDINGS", "Rounding", "gptq", "layer_error", "nearest"]
