"""Choose the patterns of all kernels of a layer together, by their effect on its outputs.

R-TOSS (arXiv 2303.02191) gives each kernel the pattern that keeps the largest weights. But what a
removed weight did can in good part be done by its neighbours, which see nearly the same picture:
which ones are best kept depends on the layer's inputs and on all other kernels. Here the layer's
output error e H e^T is lowered kernel by kernel: with everything else as it is, each pattern's best
weights and its gain follow from a system of two or three equations, and the best pattern is taken.
The error never rises. It is the block coordinate descent known from sparse regression.

Kernels are nines of the weights laid out one after the other, as in `spaces.sparsity.entries`; of a
1x1 convolution they may begin in one row and end in the next. All kernels that begin in the same
feature have the same system and are dealt with at once.

Axis letters: K kernels at once, 9 their weights, E kept entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.sparsity.entries import NINE

PASSES = 3  # over all kernels of a layer; after it hardly a pattern changes


def choose(weight_OF: Tensor, mask_OF: Tensor, hessian_FF: Tensor, masks_P9: Tensor) -> Tensor:
    """Return a better mask [O, F].

    Args:
        weight_OF: The dense rows whose outputs are to be kept.
        mask_OF: Where to start, of the same patterns.
        hessian_FF: Second moments of what the layer reads, positive definite.
        masks_P9: Patterns to choose from.
    """
    rows, features = weight_OF.shape
    kernels = weight_OF.numel() // NINE
    current_OF = weight_OF * mask_OF
    missing_OF = (weight_OF - current_OF) @ hessian_FF  # minus half the error's gradient
    chosen_OF = mask_OF.clone()
    first = torch.arange(kernels) * NINE
    groups = [(start, first[first % features == start]) for start in range(features)]
    steps = [_Step(start, first, hessian_FF, masks_P9) for start, first in groups if len(first)]
    for _ in range(PASSES):
        before = chosen_OF.clone()
        for step in steps:
            step.take(current_OF, missing_OF, chosen_OF)
        if torch.equal(before, chosen_OF):
            break
    assert chosen_OF.shape == (rows, features)
    return chosen_OF


class _Step:
    """The kernels that begin in one feature, and what is the same for all of them.

    Args:
        start: That feature.
        first_K: Where each of the kernels begins among all weights of the layer.
        hessian_FF: See `choose`.
        masks_P9: See `choose`.
    """

    def __init__(self, start: int, first_K: Tensor, hessian_FF: Tensor, masks_P9: Tensor) -> None:
        features = len(hessian_FF)
        self.columns_9 = (start + torch.arange(NINE)) % features
        self.next_row_9 = (start + torch.arange(NINE)) // features
        self.rows_K9 = (first_K // features)[:, None] + self.next_row_9
        self.masks_P9 = masks_P9
        self.reads_9F = hessian_FF[self.columns_9]
        # Rows do not know of each other.
        same_row_99 = self.next_row_9[:, None] == self.next_row_9
        self.system_99 = self.reads_9F[:, self.columns_9] * same_row_99
        self.solve_P99 = _inverses(self.system_99, masks_P9)

    def take(self, current_OF: Tensor, missing_OF: Tensor, chosen_OF: Tensor) -> None:
        """Give each kernel its best pattern and weights, in place."""
        at = (self.rows_K9, self.columns_9)
        old_K9 = current_OF[at]
        target_K9 = missing_OF[at] + old_K9 @ self.system_99
        solved_PK9 = target_K9 @ self.solve_P99
        best_K = (solved_PK9 * target_K9).sum(2).argmax(0)
        new_K9 = solved_PK9[best_K, torch.arange(len(best_K))]
        current_OF[at] = new_K9
        chosen_OF[at] = self.masks_P9[best_K]
        change_K9 = new_K9 - old_K9
        for later in range(int(self.next_row_9[-1]) + 1):
            in_row = self.next_row_9 == later
            row_K = self.rows_K9[:, in_row][:, 0]
            missing_OF[row_K] -= change_K9[:, in_row] @ self.reads_9F[in_row]


def _inverses(system_99: Tensor, masks_P9: Tensor) -> Tensor:
    """Return for each pattern the inverse of its entries' system, 0 elsewhere, [P, 9, 9]."""
    both_P99 = masks_P9[:, :, None] & masks_P9[:, None]
    # With ones for the removed entries the whole can be inverted, and then be masked.
    filled_P99 = system_99 * both_P99 + torch.diag_embed((~masks_P9).to(system_99.dtype))
    return torch.linalg.inv(filled_P99) * both_P99
