"""Block sparsity: four neighbouring weights are kept or removed together.

Neighbours are input channels of one tap, which CPU runtimes load and multiply at once: the 4-blocks
of OBC (Frantar and Alistarh, arXiv 2208.11580). Channels beyond the last whole block form a smaller
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from spaces.sparsity.pattern import Count, Kernel, largest
from spaces.sparsity.unstructured import share

BLOCK = 4


@dataclass(frozen=True, slots=True)
class Blocks:
    """A fraction of the blocks of a layer.

    Args:
        keep_ratio: The fraction, 0 < keep_ratio < 1; at least one block is kept.
    """

    keep_ratio: float
    priced_as: str = "unstructured"

    @property
    def name(self) -> str:
        """See `Pattern`."""
        return f"block-{self.keep_ratio:g}"

    def fits(self, kernel: Kernel) -> bool:
        """See `Pattern`."""
        return True

    def kept(self, outputs: Count, inputs: Count, kernel: Kernel) -> Count:
        """See `Pattern`."""
        blocks = outputs * -(-inputs // BLOCK) * (kernel[0] * kernel[1])
        return BLOCK * share(self.keep_ratio, blocks)

    def mask(self, importance: Tensor) -> Tensor:
        """See `Pattern`."""
        last = importance.movedim(1, -1)  # [O, kh, kw, I]
        inputs = last.shape[-1]
        blocks = pad(last, (0, -inputs % BLOCK)).unflatten(-1, (-1, BLOCK)).sum(-1)
        kept = largest(blocks.flatten(), int(share(self.keep_ratio, blocks.numel())))
        wide = torch.repeat_interleave(kept.view_as(blocks), BLOCK, dim=-1)
        return wide[..., :inputs].movedim(-1, 1)
