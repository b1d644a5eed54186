"""The moving average of a network's weights and batch-norm statistics, which is what is kept.

(Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992; in the exponential form of ultralytics.)
"""

from __future__ import annotations

import copy

import torch
from torch import nn

HORIZON = 0.04  # of all steps: the average looks back so far
SHORTEST_HORIZON = 5.0  # steps


class Average:
    """An averaged copy of a network.

    Args:
        net: The network that is trained.
        steps: Length of the whole training.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self._horizon = max(SHORTEST_HORIZON, HORIZON * steps)

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Move towards `net` after step number `step` (the first is 1); faster at the start."""
        keep = min(1 - 1 / self._horizon, (1 + step) / (10 + step))
        now = net.state_dict()
        for name, kept in self.net.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(now[name], 1 - keep)
            else:
                kept.copy_(now[name])
