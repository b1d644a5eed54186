"""Weights that are zero stay zero: a sparse layer is trained with the pattern it has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from evaluators.training.lsq import original_weight
from evaluators.training.method import Grids, Method
from spaces.quantization.simulate import find_convolution

MASK = "kept_weights"


class KeepZeros(Method):
    """Holds the zeros of some layers.

    Args:
        layers: Convolutions, by module name.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        self._layers = tuple(layers)

    def install(self, net: nn.Module) -> None:
        """Remember which weights are zero."""
        for name in self._layers:
            conv = find_convolution(net, name)
            conv.register_buffer(MASK, conv.weight.detach() != 0)

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Set them to zero again."""
        del progress
        for name in self._layers:
            conv = find_convolution(net, name)
            original_weight(conv).mul_(conv.get_buffer(MASK))

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Forget the patterns; the zeros stay."""
        for name in self._layers:
            delattr(find_convolution(net, name), MASK)
        return grids
