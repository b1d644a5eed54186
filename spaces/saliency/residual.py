"""What the readers cannot make up for: greedy backward elimination of each group's channels.

Removing channels is followed by a least-squares refit of all that read them (`evaluators.refit`,
`evaluators.reconstruct`). So the channel to remove next is the one whose removal, *after* the refit
of its readers and given all removals before, costs least: Channel Pruning (He et al.,
arXiv 1707.06168) by the greedy steps of Optimal Brain Surgeon for structures (ZipLM, Kurtic et al.,
arXiv 2302.04089). Every step is exact for a quadratic loss, and cheap by downdating the inverse.

What an error at a reader's output costs is the curvature of the detections by it (`readers`): all
losses have one unit, those of different groups too. While a group is ranked the others are dense.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency.obs import Elimination, eliminations
from spaces.saliency.readers import measure_readers

SHORTLIST = 8  # channels whose losses are brought up to date at once


def residual(detector: Detector, network: Network, images: Tensor) -> dict[str, Tensor]:
    """Score each group's channels [C] by the loss at which it is removed.

    Args:
        detector: The dense model.
        network: What `analyse` found in it.
        images: [N, 3, H, W] in 0..1.

    Returns:
        For each group, how far the detections of one image are expected to move (the distance of
        `random_projection`) when a channel and all with lower scores are removed.
    """
    readers = measure_readers(detector.net, network, images)
    weights = [reader.weight_RF * reader.curvature_R.sqrt()[:, None] for reader in readers]
    return {
        group.name: _eliminate(eliminations(network, group, readers, weights), group.size)
        for group in network.groups
    }


def _eliminate(readers: list[Elimination], size: int) -> Tensor:
    """Remove all channels, cheapest first, and return the loss at each one's removal [C].

    A channel's loss hardly ever falls with the removal of others. So those that were cheapest are
    looked at again, until the cheapest is one whose loss is up to date (lazy greedy: Minoux, 1978).
    """
    scores_C = torch.zeros(size, dtype=torch.float64)
    added_C = torch.zeros(size, dtype=torch.float64)
    left_C = torch.ones(size, dtype=torch.bool)
    loss = 0.0
    for _ in range(size if readers else 0):
        stale_C = left_C.clone()
        while stale_C[channel := _cheapest(added_C, left_C, 1)[0]]:
            checked_K = _cheapest(added_C, stale_C, SHORTLIST)
            losses = [reader.losses(checked_K).double() for reader in readers]
            added_C[checked_K] = torch.stack(losses).sum(0)
            stale_C[checked_K] = False
        loss += max(0.0, float(added_C[channel]))  # rounding may take it below zero
        scores_C[channel] = loss
        left_C[channel] = False
        for reader in readers:
            reader.remove(int(channel))
    return scores_C


def _cheapest(added_C: Tensor, among_C: Tensor, count: int) -> Tensor:
    """Return some of the cheapest of the channels that a mask names, as indices."""
    channels_K = among_C.nonzero()[:, 0]
    return channels_K[added_C[channels_K].argsort(stable=True)[:count]]
