"""Scale of the batch norm: Liu et al., Network Slimming, arXiv 1708.06519.

It means something for models trained with a penalty on it; for others it is a poor guide.
"""

from __future__ import annotations

from torch import Tensor
from ultralytics.nn.modules import Conv

from hw_models.errors import InputError


def bn_gamma(block: Conv) -> Tensor:
    """Return |gamma| of each channel [C].

    Raises:
        InputError: All channels have the same: there is nothing to order them by.
    """
    gamma: Tensor = block.bn.weight.abs()
    if len(gamma) > 1 and (gamma == gamma[0]).all():
        raise InputError(
            "bn-gamma cannot order the channels of this model: expected batch norms with a scale "
            f"of their own for each channel, got {len(gamma)} times {gamma[0]:.4f}.",
            "The model is untrained, or its batch norms are folded into the weights; "
            "use the criterion energy.",
        )
    return gamma
