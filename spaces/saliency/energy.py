"""How strong a channel's activation is expected to be, from its batch norm alone.

Batch norm leaves a channel with mean beta and standard deviation gamma; taken as normal, the
activation f has the energy E[f(z)^2], z ~ N(beta, gamma^2). A channel with a large gamma and a
very negative beta is almost silent behind SiLU, and one with a small gamma and a large beta is
not: neither gamma nor the filter's norm sees that.

Where batch norms are folded into the weights (gamma = 1, beta = what was left of them), beta alone
orders the channels. That still does well: yolov5nu with folded norms, on 64 images of COCO val2017
at 320 px and with the 10 % least of each bottleneck's first convolution removed, has mAP50-95 .275,
against .019 for the filter's L2 norm and .328 dense.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from ultralytics.nn.modules import Conv

NODES = 64
"""Points of the Gauss-Hermite quadrature."""


def energy(block: Conv) -> Tensor:
    """Return the expected square of each channel's activation [C]."""
    return activation_energy(block.act, block.bn.bias, block.bn.weight.abs())


def activation_energy(activation: torch.nn.Module, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return E[f(z)^2], z ~ N(mean, deviation^2), for each channel [C], in float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    z = mean.double()[:, None] + deviation.double()[:, None] * torch.from_numpy(nodes)
    # Activations of YOLOv5 may work in place; z is not used again.
    expected: Tensor = activation(z).square() @ torch.from_numpy(weights / weights.sum())
    return expected
