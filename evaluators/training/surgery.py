"""Sparse training in which removed weights may come back: dynamic network surgery.

(Guo, Yao and Chen, "Dynamic network surgery for efficient DNNs", arXiv 1608.04493.) A layer
computes with its masked weights, but the gradient goes to all of them, straight through the mask,
so that a removed weight that is missed grows until it is *spliced* back in the place of a weaker
one. A weight that is kept stays until another one is larger by `HYSTERESIS`: the paper's two
thresholds, for a fixed number of kept weights. Any pattern of `spaces.sparsity` decides which masks
are legal.

Unstructured layers lose their weights step by step in the first part of the training, by the cubic
schedule of Zhu and Gupta ("To prune, or not to prune", arXiv 1710.01878); other patterns hold from
the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluators.training.lsq import bake, original_weight
from evaluators.training.method import Grids, Method
from spaces.quantization.simulate import find_convolution
from spaces.sparsity.names import parse_pattern
from spaces.sparsity.pattern import Pattern
from spaces.sparsity.unstructured import Unstructured

HYSTERESIS = 1.1
EVERY = 8  # steps between two operations
PRUNED_UNTIL = 0.4  # progress at which the last weight is removed
SPLICED_UNTIL = 0.75  # afterwards the masks stay, and what is left converges


class Mask(nn.Module):
    """Sets removed weights to zero and lets their gradients through.

    Args:
        kept: Whether each weight is kept, bool [O, I, kh, kw].
    """

    kept: Tensor
    steps: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight + (weight * self.kept - weight).detach()


class Surgery(Method):
    """Trains layers under their sparsity patterns, which move with the weights.

    Args:
        patterns: Name of a pattern by convolution. Their weights start dense.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = {layer: parse_pattern(name) for layer, name in patterns.items()}

    def install(self, net: nn.Module) -> None:
        """Mask the weights."""
        for name, pattern in self._patterns.items():
            conv = find_convolution(net, name)
            kept = pattern_at(pattern, 0.0).mask(conv.weight.detach().square())
            parametrize.register_parametrization(conv, "weight", Mask(kept))

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Remove and splice."""
        if progress > SPLICED_UNTIL:
            return
        for name, pattern in self._patterns.items():
            conv = find_convolution(net, name)
            mask = _mask(conv)
            mask.steps += 1
            if int(mask.steps) % EVERY == 0:
                importance = original_weight(conv).square()
                importance = torch.where(mask.kept, importance * HYSTERESIS**2, importance)
                mask.kept.copy_(pattern_at(pattern, progress).mask(importance))

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Make the removed weights zero for good."""
        for name in self._patterns:
            conv = find_convolution(net, name)
            if parametrize.is_parametrized(conv, "weight"):
                bake(conv)
        return grids


def pattern_at(pattern: Pattern, progress: float) -> Pattern:
    """Return what a layer must keep to at a moment of the training."""
    if not isinstance(pattern, Unstructured):
        return pattern
    left = max(0.0, 1.0 - progress / PRUNED_UNTIL) ** 3
    return Unstructured(pattern.keep_ratio + (1.0 - pattern.keep_ratio) * left)


def _mask(conv: nn.Conv2d) -> Mask:
    mask = conv.get_submodule("parametrizations.weight.0")
    assert isinstance(mask, Mask)
    return mask
