"""The interface of sparsity patterns, and the pattern of a layer that keeps everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spaces.trace import IntArray

Kernel = tuple[int, int]
"""(rows, columns) of a convolution's kernel."""

Count = int | IntArray


class Pattern(Protocol):
    """Where the kept weights of a layer may lie; immutable.

    `Dense`, `Unstructured`, `NofM`, `Blocks`, `Kernels` and `Entries` are its implementations.
    """

    @property
    def name(self) -> str:
        """What users call it, such as `2ep` or `2:4`."""

    @property
    def priced_as(self) -> str:
        """The one of `hw_models.workload.PATTERNS` whose execution and indices it has."""

    @property
    def keep_ratio(self) -> float:
        """Fraction of the weights of a large layer that is kept."""

    def fits(self, kernel: Kernel) -> bool:
        """Whether convolutions of this kernel, not grouped, can have the pattern."""

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """Return the number of weights that `mask` keeps, at most, of a layer or of many."""

    def mask(self, importance: Tensor) -> Tensor:
        """Choose what is kept.

        Args:
            importance: At least 0, [O, I, kh, kw].

        Returns:
            Whether each weight is kept, bool [O, I, kh, kw]: of all masks of the pattern one whose
            kept importance is largest.
        """


@dataclass(frozen=True, slots=True)
class Dense:
    """Everything is kept."""

    name: str = "dense"
    priced_as: str = "dense"
    keep_ratio: float = 1.0

    def fits(self, kernel: Kernel) -> bool:
        """See `Pattern`."""
        return True

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        return outputs * inputs * (kernel[0] * kernel[1])

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        return torch.ones_like(importance, dtype=torch.bool)


def largest(importance: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` largest of the last axis; of equal ones the first."""
    order = importance.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(importance, dtype=torch.bool)
    return mask.scatter_(-1, order[..., :count], True)
