"""From the scores of single convolutions to the order of a group's channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from hw_models.errors import InputError
from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency.activation import activation, activation_mean, activation_std
from spaces.saliency.bn_gamma import bn_gamma
from spaces.saliency.energy import energy
from spaces.saliency.fisher import fisher, obd
from spaces.saliency.fpgm import fpgm
from spaces.saliency.hrank import hrank
from spaces.saliency.lamp import lamp
from spaces.saliency.norm import l1, l2
from spaces.saliency.obs import obs
from spaces.saliency.residual import residual
from spaces.saliency.taylor import taylor_activation, taylor_weight
from spaces.saliency.variational import information, variational
from spaces.trace import IntArray

BlockScore = Callable[[Conv], Tensor]
"""Scores the channels [C] of a block of convolution, batch norm and activation; larger matters."""

Scores = dict[str, Tensor]
"""For each group the scores of its channels [C]; larger matters."""

Criterion = Callable[[Detector, Network, Tensor], Scores]
"""Scores all groups of a model on images [N, 3, H, W] in 0..1, which it need not look at."""


def _by_mean(scores_C: Tensor) -> Tensor:
    """Divide by the mean over channels: every member of a group has the same say."""
    mean = scores_C.double().mean()
    return scores_C / mean if mean > 0 else torch.ones_like(scores_C)


def _as_is(scores_C: Tensor) -> Tensor:
    """Change nothing: the scores of all convolutions have one unit."""
    return scores_C


def _data_free(score: BlockScore, normalise: Callable[[Tensor], Tensor]) -> Criterion:
    return lambda detector, network, _: _over_members(detector, network, score, normalise)


def _measured(
    measure: Callable[[nn.Module, Tensor], BlockScore], normalise: Callable[[Tensor], Tensor]
) -> Criterion:
    return lambda detector, network, images: _over_members(
        detector, network, measure(detector.net, images), normalise
    )


def _over_members(
    detector: Detector,
    network: Network,
    score: BlockScore,
    normalise: Callable[[Tensor], Tensor],
) -> Scores:
    """Sum the scores of a group's members: its channels are written by all of them."""
    scores: Scores = {}
    for group in network.groups:
        blocks = [detector.net.get_submodule(name.removesuffix(".conv")) for name in group.members]
        scores[group.name] = torch.stack([normalise(score(block)) for block in blocks]).sum(0)
    return scores


DATA_FREE: Mapping[str, Criterion] = {
    "l1": _data_free(l1, _by_mean),
    "l2": _data_free(l2, _by_mean),
    "lamp": _data_free(lamp, _as_is),
    "fpgm": _data_free(fpgm, _by_mean),
    "bn-gamma": _data_free(bn_gamma, _by_mean),
    "energy": _data_free(energy, _by_mean),
}
ON_IMAGES: Mapping[str, Criterion] = {
    "activation": _measured(activation, _by_mean),
    "activation-mean": _measured(activation_mean, _by_mean),
    "activation-std": _measured(activation_std, _by_mean),
    "hrank": _measured(hrank, _by_mean),
    "taylor-weight": _measured(taylor_weight, _as_is),
    "taylor-activation": _measured(taylor_activation, _as_is),
    "obd": _measured(obd, _as_is),
    "fisher": _measured(fisher, _as_is),
    "information": _measured(information, _as_is),
    "variational": _measured(variational, _as_is),
    "obs": obs,
    "residual": residual,
}
CRITERIA: Mapping[str, Criterion] = {**DATA_FREE, **ON_IMAGES}
"""All criteria by name; those `ON_IMAGES` need some."""


def rank(
    detector: Detector,
    network: Network,
    criterion: str = "energy",
    images: Tensor | None = None,
) -> dict[str, IntArray]:
    """Order the channels of each group.

    Args:
        detector: The dense model; it is not changed.
        network: What `analyse` found in it.
        criterion: One of `CRITERIA`.
        images: [N, 3, H, W] in 0..1, what criteria `ON_IMAGES` measure on; the others do not look
            at it.

    Returns:
        For each group, its channels from the most to the least important; ties in their order.

    Raises:
        InputError: There is no such criterion, it needs images, or it cannot order this model's
            channels.
    """
    return order(score(detector, network, criterion, images))


def order(scores: Scores) -> dict[str, IntArray]:
    """Return the channels of each group from the highest score to the lowest. See `rank`."""
    return {
        name: scores_C.argsort(descending=True, stable=True).numpy()
        for name, scores_C in scores.items()
    }


@torch.no_grad()
def score(
    detector: Detector,
    network: Network,
    criterion: str,
    images: Tensor | None = None,
) -> Scores:
    """Score the channels of each group; larger matters. See `rank`."""
    if criterion not in CRITERIA:
        raise InputError(
            f"Unknown pruning criterion {criterion!r}; expected one of {', '.join(CRITERIA)}."
        )
    if images is None or not len(images):
        if criterion in ON_IMAGES:
            raise InputError(
                f"The criterion {criterion} measures on images; expected at least one, got none.",
                "Give calibration images, or use the criterion energy.",
            )
        images = torch.empty(0)
    return CRITERIA[criterion](detector, network, images)
