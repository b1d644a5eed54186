"""Second order with compensation: what is lost with a channel when all readers make up for it.

Hassibi and Stork, Optimal Brain Surgeon, 1993, with the layer's input covariance as Hessian, which
is exact for its squared output error. For a block B of weights of one row (all taps of a channel),
with H the Hessian (Frantar et al., OBC, arXiv 2208.11580, equation 6; ZipLM, arXiv 2302.04089,
equation 2, for structures):

    loss = 1/2 w_B ((H^-1)_BB)^-1 w_B^T        w <- w - w_B ((H^-1)_BB)^-1 (H^-1)_B,:

Axis letters: C channels of a group, F features, R rows of a weight, B features of one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spaces.groups import ChannelGroup, Network
from spaces.model import Detector
from spaces.saliency.readers import TINY_VARIANCE, Reader, measure_readers


@dataclass(slots=True, eq=False)
class Elimination:
    """Channels of one group, removed one after the other from one convolution.

    Attributes:
        weight_RF: Rows that have made up for the channels removed so far; changed in place.
        inverse_FF: Inverse Hessian of the features that are left; changed in place.
        features_CB: The features of each channel.
    """

    weight_RF: Tensor
    inverse_FF: Tensor
    features_CB: Tensor

    def losses(self, channels_K: Tensor) -> Tensor:
        """Return what removing each one of some channels would add to the loss [K]."""
        features_KB = self.features_CB[channels_K]
        weight_KBR = self.weight_RF[:, features_KB].permute(1, 2, 0)
        inverse_KBB = self.inverse_FF[features_KB[:, :, None], features_KB[:, None, :]]
        solved_KBR = torch.linalg.solve(inverse_KBB, weight_KBR)
        return (weight_KBR * solved_KBR).sum((1, 2)) / 2

    def remove(self, channel: int) -> None:
        """Remove a channel: the others make up for it."""
        features_B = self.features_CB[channel]
        gain_BF = torch.linalg.solve(
            self.inverse_FF[features_B][:, features_B], self.inverse_FF[features_B]
        )
        self.weight_RF -= self.weight_RF[:, features_B] @ gain_BF
        self.inverse_FF -= self.inverse_FF[:, features_B] @ gain_BF
        self.weight_RF[:, features_B] = 0.0


def eliminations(
    network: Network, group: ChannelGroup, readers: Sequence[Reader], weights: Sequence[Tensor]
) -> list[Elimination]:
    """Prepare the removal of a group's channels from all that read them.

    Args:
        network: What `analyse` found in the model.
        group: One of its groups.
        readers: Of the whole network.
        weights: For each reader its rows, scaled so that all losses have one unit.
    """
    first = int(network.offsets[network.groups.index(group)])
    prepared = []
    for reader, weight_RF in zip(readers, weights, strict=True):
        of_group_F = (reader.channels_F >= first) & (reader.channels_F < first + group.size)
        if of_group_F.any():
            features_F = of_group_F.nonzero()[:, 0]
            by_channel_F = features_F[reader.channels_F[features_F].argsort(stable=True)]
            features_CB = by_channel_F.view(group.size, -1)
            prepared.append(Elimination(weight_RF.clone(), reader.inverse_FF.clone(), features_CB))
    return prepared


def obs(detector: Detector, network: Network, images: Tensor) -> dict[str, Tensor]:
    """Score each group's channels [C] by the loss of removing it alone.

    The sum over readers of their squared output errors, each divided by that reader's output
    variance: the outputs of a reader count by what they carry.

    Args:
        detector: The dense model.
        network: What `analyse` found in it.
        images: [N, 3, H, W] in 0..1.
    """
    readers = measure_readers(detector.net, network, images)
    weights = [_by_output_variance(reader) for reader in readers]
    scores = {}
    for group in network.groups:
        channels = torch.arange(group.size)
        parts = eliminations(network, group, readers, weights)
        losses = [part.losses(channels).double() for part in parts]
        scores[group.name] = sum(losses, start=torch.zeros(group.size, dtype=torch.float64))
    return scores


def _by_output_variance(reader: Reader) -> Tensor:
    variance = (reader.weight_RF @ reader.covariance_FF * reader.weight_RF).sum()
    return reader.weight_RF / variance.clamp_min(TINY_VARIANCE).sqrt()
