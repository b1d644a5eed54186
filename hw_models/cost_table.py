"""Measured cost tables: for every layer, its time at each of some levels of sparsity.

The form SPDY (arXiv 2201.13096) publishes: two named totals, then each layer's name followed by
rows of seconds and sparsity.

    base
    0.640
    prunable
    0.577
    model.0.conv
    0.0213 0.0000
    ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hw_models.errors import InputError


@dataclass(frozen=True, slots=True)
class CostTable:
    """Times of a network's layers by level.

    Args:
        base_s: Time of the whole dense network.
        prunable_s: Time of the layers in the table when dense.
        layers: Layer -> sparsity -> seconds.
    """

    base_s: float
    prunable_s: float
    layers: Mapping[str, Mapping[float, float]]

    def time_s(self, sparsity: Mapping[str, float]) -> float:
        """Return the time of the network with some layers at the level nearest to a sparsity.

        Layers that are not named stay dense.

        Raises:
            InputError: A layer is not in the table.
        """
        if unknown := sorted(set(sparsity) - set(self.layers)):
            raise InputError(f"The cost table has no layer {unknown[0]!r}.")
        total = self.base_s - self.prunable_s
        for name, levels in self.layers.items():
            wanted = sparsity.get(name, 0.0)
            total += levels[min(levels, key=lambda level: abs(level - wanted))]
        return total

    def speedup(self, sparsity: Mapping[str, float]) -> float:
        """Return the time of the dense network over that of the sparse one."""
        return self.base_s / self.time_s(sparsity)


def read_cost_table(path: Path) -> CostTable:
    """Read a table in SPDY's form.

    Raises:
        InputError: The file is missing or not in that form.
    """
    if not path.is_file():
        raise InputError(f"No cost table at {path}.")
    totals: dict[str, float] = {}
    layers: dict[str, dict[float, float]] = {}
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        try:
            if len(words) == 2:
                layers.setdefault(name, {})[float(words[1])] = float(words[0])
            elif len(words) == 1 and name in {"base", "prunable"} and name not in totals:
                totals[name] = float(words[0])
            elif len(words) == 1:
                name = words[0]
            elif words:
                raise ValueError(f"{len(words)} words")
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not a cost table row ({error}).") from error
    if set(totals) != {"base", "prunable"} or not layers:
        raise InputError(f"{path} lacks the totals `base` and `prunable`, or any layer.")
    return CostTable(totals["base"], totals["prunable"], layers)
