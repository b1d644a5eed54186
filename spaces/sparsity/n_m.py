"""N:M sparsity: of every M neighbouring weights N are kept.

Neighbours are the input channels of one tap, as Ampere's sparse tensor cores want it for 2:4
(Mishra et al., arXiv 2104.08378). The last neighbours may be fewer than M: up to N of them stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from spaces.sparsity.pattern import Count, Kernel, largest


@dataclass(frozen=True, slots=True)
class NofM:
    """N of M neighbouring input channels of each output and tap, 0 < n < m."""

    n: int
    m: int

    @property
    def name(self) -> str:
        """See `Pattern`."""
        return f"{self.n}:{self.m}"

    @property
    def priced_as(self) -> str:
        """Only 2:4 is executed anywhere; the others are stored with a bit mask."""
        return "2:4" if self.name == "2:4" else "unstructured"

    @property
    def keep_ratio(self) -> float:
        """See `Pattern`."""
        return self.n / self.m

    def fits(self, kernel: Kernel) -> bool:
        """See `Pattern`."""
        return True

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        rest = np.minimum(np.asarray(inputs) % self.m, self.n)
        row = inputs // self.m * self.n + (int(rest) if isinstance(inputs, int) else rest)
        return outputs * row * (kernel[0] * kernel[1])

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        last = importance.movedim(1, -1)  # [O, kh, kw, I]
        inputs = last.shape[-1]
        padded = pad(last, (0, -inputs % self.m), value=-1.0)
        kept = largest(padded.unflatten(-1, (-1, self.m)), self.n)
        return kept.flatten(-2)[..., :inputs].movedim(-1, 1)
