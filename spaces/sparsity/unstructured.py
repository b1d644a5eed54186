"""Unstructured sparsity: the largest weights of a layer, wherever they are.

The oldest criterion (Han et al., Deep Compression, arXiv 1510.00149), ultralytics' `prune` and the
levels of SPDY (arXiv 2201.13096). No runtime of a Jetson gains time from it; it is stored as a bit
mask and the kept weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spaces.sparsity.pattern import Count, Kernel, largest


@dataclass(frozen=True, slots=True)
class Unstructured:
    """A fraction of the weights of a layer.

    Args:
        keep_ratio: The fraction, 0 < keep_ratio < 1; at least one weight is kept.
    """

    keep_ratio: float
    priced_as: str = "unstructured"

    @property
    def name(self) -> str:
        """See `Pattern`."""
        return f"unstructured-{self.keep_ratio:g}"

    def fits(self, kernel: Kernel) -> bool:
        """See `Pattern`."""
        return True

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        return share(self.keep_ratio, outputs * inputs * (kernel[0] * kernel[1]))

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        kept = int(share(self.keep_ratio, importance.numel()))
        return largest(importance.flatten(), kept).view_as(importance)


def share(ratio: float, of: Count) -> Count:
    """Return a fraction of a number of things, rounded, and at least one of them."""
    rounded = np.maximum(1, np.rint(ratio * np.asarray(of))).astype(np.int64)
    return int(rounded) if isinstance(of, int) else rounded
