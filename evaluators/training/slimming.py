"""Sparse training: batch-norm scales are pulled to zero, so that a search can prune by them.

(Liu et al., "Learning efficient convolutional networks through network slimming", arXiv
1708.06519.) The L1 penalty on the scales gamma is applied as its proximal step after the
optimiser's (soft thresholding, ISTA), for Adam would rescale its gradient:

    gamma <- sign(gamma) max(|gamma| - strength * rate * factor, 0)

Variants, by their factor (letters: C channels of a layer):

* `plain`: 1.
* `cosine`: falls to 0 over the training, as in Pruned-YOLO (CDSC-BNFS).
* `asr`, adaptive: larger for channels whose filter is weak, the layer's mean norm / the filter's.
* `crlst`, compute-regularised: proportional to the MACs that a channel of the layer costs.
* `soft`: `cosine`, and the weakest channels by |gamma| times filter norm are set to zero after each
  step but may grow back (soft masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from evaluators.training.method import Grids, Method

Variant = Literal["plain", "cosine", "asr", "crlst", "soft"]
VARIANTS: tuple[Variant, ...] = ("plain", "cosine", "asr", "crlst", "soft")

STRENGTH = 2e-3  # of a step at the peak; gamma is about 1
LARGEST_FACTOR = 4.0
SOFT_SHARE = 0.2  # of each layer's channels that soft masks silence
SOFT_UNTIL = 0.8  # progress at which they stop
PROBE_PX = 64
SHARE = "macs_share"


class Slimming(Method):
    """Pulls the scales of all norms behind convolutions to zero.

    Args:
        variant: How strongly, where and when.
        strength: Of one step at its peak, in units of gamma.
    """

    def __init__(self, variant: Variant = "cosine", strength: float = STRENGTH) -> None:
        assert variant in VARIANTS, variant
        self._variant = variant
        self._strength = strength

    @torch.no_grad()
    def install(self, net: nn.Module) -> None:
        """Note what a channel of each layer costs."""
        costs = _macs_a_channel(net)
        mean = sum(costs.values()) / len(costs)
        for block, cost in costs.items():
            block.register_buffer(SHARE, torch.tensor(cost / mean), persistent=False)

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Shrink the scales."""
        fading = 0.5 * (1 + math.cos(math.pi * progress))
        for block in _blocks(net):
            gamma = block.bn.weight
            step = self._strength * self._factor(block, fading)
            gamma.copy_(gamma.sign() * (gamma.abs() - step).clamp(min=0))
            if self._variant == "soft" and progress < SOFT_UNTIL:
                strength = gamma.abs() * filter_norms(block.conv.weight)
                weakest = strength.argsort()[: int(SOFT_SHARE * len(strength))]
                gamma[weakest] = 0.0

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Forget the costs; the scales stay small."""
        for block in _blocks(net):
            delattr(block, SHARE)
        return grids

    def _factor(self, block: Conv, fading: float) -> Tensor | float:
        if self._variant in ("cosine", "soft"):
            return fading
        if self._variant == "asr":
            norms = filter_norms(block.conv.weight)
            return (norms.mean() / norms.clamp(min=1e-12)).clamp(max=LARGEST_FACTOR)
        if self._variant == "crlst":
            return block.get_buffer(SHARE).clamp(max=LARGEST_FACTOR)
        return 1.0


def filter_norms(weight: Tensor) -> Tensor:
    """Return the L2 norm of each filter [C] of a weight [C, I, kh, kw]."""
    return weight.detach().flatten(1).norm(dim=1)


def _blocks(net: nn.Module) -> list[Conv]:
    return [
        module
        for module in net.modules()
        if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d)
    ]


def _macs_a_channel(net: nn.Module) -> dict[Conv, float]:
    """Return the multiplications of one output channel of each block, for a small image."""
    costs: dict[Conv, float] = {}

    def counter(block: Conv) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(_conv: nn.Module, _args: tuple[Tensor, ...], y: Tensor) -> None:
            costs[block] = float(y.shape[2] * y.shape[3] * block.conv.weight[0].numel())

        return count

    handles = [block.conv.register_forward_hook(counter(block)) for block in _blocks(net)]
    mode = net.training
    try:
        device = next(net.parameters()).device
        net.eval()(torch.zeros(1, 3, PROBE_PX, PROBE_PX, device=device))
    finally:
        net.train(mode)
        for handle in handles:
            handle.remove()
    return costs
