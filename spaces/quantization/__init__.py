"""Fewer bits for weights and activations, simulated in float32.

| module | what it holds |
| --- | --- |
| `grid` | the integers of a bit width, rounding to them, and the record of activation clips |
| `calibrators` | how the clip of a grid is chosen, one method a module |
| `rounding` | how weights become points of the grid, one method a module |
| `sharing` | which convolution inputs must have one scale |
| `calibrate` | activation clips from calibration images, once on the dense network |
| `patches` | what convolutions read, at some positions |
| `simulate` | `quantize`: a network that computes as if its layers had few bits |
| `allocation` | how many bits each layer gets |
| `asymmetric`, `dynamic`, `logarithmic`, `power_of_two`, `codebook` | other grids, simulated only |
| `equalization`, `bias` | corrections before and after rounding |

Weights are symmetric and quantised for each output channel, activations symmetric with one scale
a tensor and zero point 0, as TensorRT wants them. A scale an output channel makes weight
quantisation commute with batch-norm folding: the integers of a folded weight are those of the
weight itself (negated where the norm's factor is negative).
"""

from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.grid import ActivationScales
from spaces.quantization.simulate import quantize

__all__ = ["ActivationScales", "calibrate_activations", "quantize"]
