"""Which levels of a variable are worth having: those on the lower envelope of the cost model.

A level that costs no less than a denser one in any dimension loses accuracy for nothing: 8 bits for
activations beside 16 for weights, say, where a device computes in FP16 then and others read the
same tensor. With the shipped profiles all numbers of channels of `keep_levels` are on the envelope.

Axis letters: N genomes, V variables, L levels of one, D dimensions of cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hw_models.cost import CostModel
from spaces.space import SearchSpace

Floats = npt.NDArray[np.float64]

EQUAL = 1e-9  # relative difference of two costs that means nothing


def on_envelope(model: CostModel, space: SearchSpace) -> SearchSpace:
    """Return the space without the levels that a denser one undercuts or equals.

    Every level is priced alone, all else dense. Patterns stay: they are not more or less of one
    another.

    Args:
        model: Prices genomes.
        space: Whose variables.
    """
    variables = space.variables
    rows = [
        (column, level)
        for column, variable in enumerate(variables)
        if not variable.name.startswith("pattern:")
        for level in range(len(variable.options))
    ]
    if not rows:
        return space
    genomes_NV = np.zeros((len(rows), len(variables)), dtype=np.int64)
    for row, (column, level) in enumerate(rows):
        genomes_NV[row, column] = level
    costs = model.predict_batch(space.workloads(genomes_NV))
    costs_ND = np.stack([costs.latency_ms, costs.energy_mj, costs.size_bytes], axis=1)
    costs_ND = np.nan_to_num(costs_ND.astype(np.float64))
    kept: dict[str, tuple[Any, ...]] = {}
    for first in (row for row, (_, level) in enumerate(rows) if level == 0):
        variable = variables[rows[first][0]]
        costs_of_LD = costs_ND[first : first + len(variable.options)]
        kept[variable.name] = _undominated(variable.options, costs_of_LD)
    return space.narrowed(kept)


def _undominated(options: tuple[Any, ...], costs_LD: Floats) -> tuple[Any, ...]:
    """Return the options, densest first, that no richer one undercuts or equals."""
    left = [0]
    for row in range(1, len(options)):
        beaten = any(
            (np.asarray(options[other]) >= np.asarray(options[row])).all()
            and (costs_LD[other] <= costs_LD[row] * (1 + EQUAL)).all()
            for other in left
        )
        if not beaten:
            left.append(row)
    return tuple(options[row] for row in left)
