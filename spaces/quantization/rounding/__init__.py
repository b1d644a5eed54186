"""How the weights of a layer become points of its grid, one method a module.

| module | what it holds |
| --- | --- |
| `nearest` | every weight for itself |
| `gptq` | weight by weight, those not yet rounded making up for the error of the others |
| `obq` | the same in the order that each row likes best |
| `descent` | weight by weight again and again, each given all others |
| `adaround` | up or down, learnt by gradient |
| `adaquant` | weights and steps learnt by gradient |
| `auto` | grid and rounding of each row chosen by the error they leave |
| `layer_error` | what a rounding costs at the layer's output |
| `interface` | what they all promise |

All methods but `nearest` lower the squared error of the layer's output on calibration images,
tr(D H D^T) / O with D = rounded - weight and H the second moments of the layer's input, so that H
is all they need to know of the images. Axis letters here: O output channels (rows of a weight), F
features (its columns: input channels times taps of the kernel, in the order of `flatten(1)`).
"""

from __future__ import annotations

from spaces.quantization.rounding.adaquant import adaquant
from spaces.quantization.rounding.adaround import adaround
from spaces.quantization.rounding.descent import descent
from spaces.quantization.rounding.gptq import gptq
from spaces.quantization.rounding.interface import Rounding
from spaces.quantization.rounding.layer_error import layer_error
from spaces.quantization.rounding.nearest import nearest
from spaces.quantization.rounding.obq import obq

ROUNDINGS: dict[str, Rounding] = {
    "nearest": nearest,
    "gptq": gptq,
    "obq": obq,
    "descent": descent,
    "adaround": adaround,
    "adaquant": adaquant,
}

__all__ = [
    "ROUNDINGS",
    "Rounding",
    "adaquant",
    "adaround",
    "descent",
    "gptq",
    "layer_error",
    "nearest",
    "obq",
]
