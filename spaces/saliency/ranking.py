"""From the scores of single convolutions to the order of a group's channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from ultralytics.nn.modules import Conv

from hw_models.errors import InputError
from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency.activation import activation
from spaces.saliency.bn_gamma import bn_gamma
from spaces.saliency.energy import energy
from spaces.saliency.norm import l1, l2
from spaces.trace import IntArray

Criterion = Callable[[Conv], Tensor]
"""Scores the channels [C] of a block of convolution, batch norm and activation; larger matters."""

DATA_FREE: Mapping[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "energy": energy,
    "bn-gamma": bn_gamma,
}
CRITERIA = (*DATA_FREE, "activation")
"""Names of all criteria; `activation` needs images."""


@torch.no_grad()
def rank(
    detector: Detector,
    network: Network,
    criterion: str = "energy",
    images: Tensor | None = None,
) -> dict[str, IntArray]:
    """Order the channels of each group.

    A group's channel is written by all of its members. Its score is the sum of theirs, each divided
    by that member's mean over channels, so that every member has the same say.

    Args:
        detector: The dense model.
        network: What `analyse` found in it.
        criterion: One of `CRITERIA`.
        images: [N, 3, H, W] in 0..1, what `activation` measures on; the others do not look at it.

    Returns:
        For each group, its channels from the most to the least important; ties in their order.

    Raises:
        InputError: There is no such criterion, it needs images, or it cannot order this model's
            channels.
    """
    score = _criterion(criterion, detector, images)
    ranking: dict[str, IntArray] = {}
    for group in network.groups:
        blocks = [detector.net.get_submodule(name.removesuffix(".conv")) for name in group.members]
        total = torch.stack([_normalised(score(block)) for block in blocks]).sum(0)
        ranking[group.name] = total.argsort(descending=True, stable=True).numpy()
    return ranking


def _criterion(name: str, detector: Detector, images: Tensor | None) -> Criterion:
    if name == "activation":
        return activation(detector.net, images)
    if name in DATA_FREE:
        return DATA_FREE[name]
    raise InputError(f"Unknown pruning criterion {name!r}; expected one of {', '.join(CRITERIA)}.")


def _normalised(scores: Tensor) -> Tensor:
    mean = scores.double().mean()
    return scores / mean if mean > 0 else torch.ones_like(scores)
