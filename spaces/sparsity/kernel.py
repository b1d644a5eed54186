"""Kernel sparsity: whole kernels, what one output reads of one input channel, are kept or removed.

The connectivity pruning of PatDNN (Niu et al., arXiv 2001.00138).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spaces.sparsity.pattern import Count, Kernel, largest
from spaces.sparsity.unstructured import share


@dataclass(frozen=True, slots=True)
class Kernels:
    """A fraction of the kernels of a layer.

    Args:
        keep_ratio: The fraction, 0 < keep_ratio < 1; at least one kernel is kept.
    """

    keep_ratio: float
    priced_as: str = "unstructured"

    @property
    def name(self) -> str:
        """See `Pattern`."""
        return f"kernel-{self.keep_ratio:g}"

    def fits(self, kernel: Kernel) -> bool:
        """See `Pattern`."""
        return True

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        return share(self.keep_ratio, outputs * inputs) * (kernel[0] * kernel[1])

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        kernels = importance.sum((2, 3))
        kept = largest(kernels.flatten(), int(share(self.keep_ratio, kernels.numel())))
        return kept.view_as(kernels)[:, :, None, None].expand_as(importance).clone()
