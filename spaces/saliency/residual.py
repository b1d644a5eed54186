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
    """Remove all channels, cheapest first, and return the loss at each one's removal [C]."""
    scores_C = torch.zeros(size, dtype=torch.float64)
    left_K = torch.arange(size)
    loss = 0.0
    while readers and len(left_K):
        added_K = torch.stack([reader.losses(left_K).double() for reader in readers]).sum(0)
        cheapest = int(added_K.argmin())
        channel = int(left_K[cheapest])
        loss += max(0.0, float(added_K[cheapest]))  # rounding may take it below zero
        scores_C[channel] = loss
        for reader in readers:
            reader.remove(channel)
        left_K = torch.cat([left_K[:cheapest], left_K[cheapest + 1 :]])
    return scores_C
