"""How many bits each layer gets.

Two ways: the *error-limit* rule, which knows only the steps of activations, and an exact choice of
least total damage within a size (HAWQ-V3's integer program, Yao et al., arXiv 2011.10680, with any
measured damage in the place of its Hessian trace).

Axis letters: L layers, B bit widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from hw_models.errors import InfeasibleError
from spaces.quantization.grid import ActivationScales

WIDEST, NARROWEST = 8, 2
MILP_GAP = 1e-4
MILP_SECONDS = 30.0

FloatArray = NDArray[np.float64]


def error_limit_bits(scales: ActivationScales, limit: float) -> dict[str, int]:
    """Take bits from each layer until the step of its input reaches a limit.

    Every layer starts at 8 bits and loses one while its activation step c / (2^(b-1) - 1) stays
    below the limit. Layers whose inputs share a scale get the same bits. (Error-limit method,
    Infrared and Laser Engineering 51(4) 20220166: a limit of .08 to .25.)

    Args:
        scales: Of the dense network.
        limit: In the unit of the activations.

    Returns:
        The bits of weights and input of each convolution.
    """
    bits = {}
    for layer in scales.groups:
        width = WIDEST
        while width > NARROWEST and scales.scale(layer, width) < limit:
            width -= 1
        bits[layer] = width
    return bits


def allocate(damage_LB: FloatArray, size_LB: FloatArray, budget: float) -> NDArray[np.int64]:
    """Choose one width a layer with the least total damage within a size.

    Args:
        damage_LB: What each width costs in accuracy, in any unit that adds up.
        size_LB: What each width takes, in the unit of `budget`.
        budget: The largest total size allowed.

    Returns:
        The index of each layer's width [L].

    Raises:
        InfeasibleError: If the smallest widths are larger than the budget.
    """
    layers, widths = damage_LB.shape
    smallest = float(size_LB.min(1).sum())
    if smallest > budget:
        raise InfeasibleError(
            f"No choice of bits is as small as {budget:.6g}: with the fewest bits everywhere the"
            f" layers take {smallest:.6g}.",
            "Allow a larger size or fewer bits.",
        )
    one_width = np.kron(np.eye(layers), np.ones(widths))
    result = milp(
        damage_LB.ravel(),
        integrality=np.ones(layers * widths),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_width, 1, 1),
            LinearConstraint(size_LB.reshape(1, -1), -np.inf, budget),
        ],
        options={"mip_rel_gap": MILP_GAP, "time_limit": MILP_SECONDS},
    )
    assert result.x is not None, result.message
    return np.asarray(result.x.reshape(layers, widths).argmax(1), dtype=np.int64)


def stored_bits(weights: int, outputs: int, bits: int, value_bits: int = 32) -> int:
    """Return the bits that a convolution takes in a file, scales and biases counted.

    Args:
        weights: Number of weights.
        outputs: Number of output channels.
        bits: Of a weight; at 16 or more there are no scales.
        value_bits: Of a scale and of a bias.
    """
    values_a_channel = 2 if bits < 16 else 1
    return weights * bits + outputs * values_a_channel * value_bits


def sizes(layers: Sequence[tuple[int, int]], widths: Sequence[int]) -> FloatArray:
    """Return the size in bytes [L, B] of layers of (weights, outputs) at each width."""
    table = [[stored_bits(*layer, bits) / 8 for bits in widths] for layer in layers]
    return np.array(table, dtype=np.float64)
