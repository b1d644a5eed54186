"""Channels go step by step while the network is trained: an iterative pruning schedule.

Removing a part of the channels, training, removing more (Han et al., arXiv 1506.02626; Li et al.,
arXiv 1608.08710) leaves the network time to hand over to those that stay what the others did. How
many are gone at which moment follows the cubic schedule of Zhu and Gupta ("To prune, or not to
prune", arXiv 1710.01878), many at first, while there are channels to spare. The order is that of
the search's ranking, so that what comes out is the candidate itself.

A removed channel stays in the network with a batch norm of scale and shift zero, and so has no
effect (`spaces.compress.mask`); at the end it is cut out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from evaluators.training.method import Grids, Method
from spaces.candidate import Candidate
from spaces.compress import Ranking, cut, kept_channels
from spaces.groups import Network

GONE_AT = 0.5  # progress at which the last channel is removed; afterwards what is left converges


class GradualPruning(Method):
    """Prunes a dense network down to a candidate.

    Args:
        network: What `spaces.groups.analyse` found in the dense network.
        candidate: What is kept in the end.
        ranking: Which channels go first.
    """

    def __init__(self, network: Network, candidate: Candidate, ranking: Ranking) -> None:
        self._network, self._candidate, self._ranking = network, candidate, ranking
        self._counts = network.counts(candidate)

    def counts_at(self, progress: float) -> list[int]:
        """Return how many channels each group has left at a moment of the training."""
        left = max(0.0, 1.0 - progress / GONE_AT) ** 3
        sizes = self._network.sizes
        return [int(n) for n in (self._counts + left * (sizes - self._counts)).round()]

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Silence the channels that are gone by now."""
        groups = self._network.groups
        counts = zip((group.name for group in groups), self.counts_at(progress), strict=True)
        now = replace(self._candidate, kept=tuple(counts))
        kept = kept_channels(self._network, now, self._ranking)
        norms_left = self._network.of(now).norms
        for name, channels in self._network.norms.items():
            there = torch.from_numpy(kept[channels]) if name in norms_left else torch.zeros(1)
            norm = net.get_submodule(name)
            for parameter in norm.parameters():
                parameter.mul_(there.to(parameter.device))

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Cut them out."""
        cut(net, self._network, self._candidate, self._ranking)
        return grids
