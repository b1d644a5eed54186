"""Entry patterns of R-TOSS: two or three of the nine weights of every kernel (2EP, 3EP).

Balasubramaniam, Sunny and Pasricha, R-TOSS, arXiv 2303.02191:

* Of all choices of k of nine entries those whose entries are neighbours (across corners too) stay,
  and of these at most 21: those that keep the most of kernels drawn uniformly from -1..1.
* Every 3x3 kernel takes the pattern that keeps the most of it.
* The weights of a 1x1 convolution are laid out one after the other, and every nine of them treated
  as a 3x3 kernel; what is left over at the end is removed.

A runtime for them compiles one loop a pattern. To name one of a layer's `DICTIONARY` patterns takes
four bits, and which they are is decided by the layer's parent (`spaces.sparsity.families`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from spaces.sparsity.pattern import Count, Kernel

NINE = 9
MOST = 21  # that a parent chooses from
DICTIONARY = 16  # that its family uses: no worse than all 21 within noise, and a bit less a kernel
DRAWN = 100_000  # kernels; the order of patterns is that of how often they are the best

Entry = tuple[int, ...]
"""Positions 0..8 of the kept entries of a kernel, row by row."""


@dataclass(frozen=True, slots=True)
class Entries:
    """`count` entries of every nine weights.

    Args:
        count: 2 or 3 (any of 1 to 8 works).
        patterns: Those a kernel chooses from; `candidates(count)` if empty.
    """

    count: int
    patterns: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        """See `Pattern`."""
        return f"{self.count}ep"

    @property
    def priced_as(self) -> str:
        """See `Pattern`."""
        return self.name

    @property
    def keep_ratio(self) -> float:
        """See `Pattern`."""
        return self.count / NINE

    def fits(self, kernel: Kernel) -> bool:
        """Whether the paper says what becomes of such a kernel."""
        return kernel in {(1, 1), (3, 3)}

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        return outputs * inputs * (kernel[0] * kernel[1]) // NINE * self.count

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        nines = in_nines(importance)
        masks = self.masks()
        mask = torch.zeros(importance.numel(), dtype=torch.bool)
        mask[: nines.numel()] = masks[(nines @ masks.T.to(nines.dtype)).argmax(1)].flatten()
        return mask.view_as(importance)

    def masks(self) -> Tensor:
        """Return the patterns to choose from, bool [P, 9]."""
        patterns = self.patterns or candidates(self.count)
        masks = torch.zeros(len(patterns), NINE, dtype=torch.bool)
        return masks.scatter_(1, torch.tensor(patterns), True)

    def learnt(self, importance: Tensor) -> Entries:
        """Return the same with the `DICTIONARY` patterns only that a layer uses most.

        Args:
            importance: Of the weights of that layer, [O, I, kh, kw].
        """
        patterns = self.patterns or candidates(self.count)
        nines = in_nines(importance)
        best = (nines @ self.masks().T.to(nines.dtype)).argmax(1)
        uses = torch.bincount(best, minlength=len(patterns))
        most = uses.argsort(descending=True, stable=True)[:DICTIONARY].sort().values
        return replace(self, patterns=tuple(patterns[int(index)] for index in most))


def in_nines(weight: Tensor) -> Tensor:
    """Return the weights of a layer as kernels of nine [kernels, 9], without what is left over."""
    kernels = weight.numel() // NINE
    return weight.flatten()[: kernels * NINE].view(kernels, NINE)


@cache
def candidates(count: int) -> tuple[Entry, ...]:
    """Return the patterns of `count` entries, those that fit most random kernels first."""
    connected = [entry for entry in combinations(range(NINE), count) if _is_connected(entry)]
    masks_P9 = np.zeros((len(connected), NINE))
    for row, entry in zip(masks_P9, connected, strict=True):
        row[list(entry)] = 1.0
    drawn = np.random.default_rng(0).uniform(-1.0, 1.0, (DRAWN, NINE))
    best = (drawn**2 @ masks_P9.T).argmax(1)
    uses = np.bincount(best, minlength=len(connected))
    return tuple(connected[index] for index in np.argsort(-uses, kind="stable")[:MOST])


def _is_connected(entry: Entry) -> bool:
    """Whether all entries can be reached from the first by steps between neighbours."""
    reached = {entry[0]}
    while True:
        near = {e for e in entry for r in reached if _are_neighbours(e, r)} | reached
        if near == reached:
            return len(reached) == len(entry)
        reached = near


def _are_neighbours(one: int, other: int) -> bool:
    return max(abs(one // 3 - other // 3), abs(one % 3 - other % 3)) <= 1
