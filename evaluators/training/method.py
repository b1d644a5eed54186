"""The interface of training-time methods: what a method may do at which moment of a training.

Methods keep their parameters and buffers inside the network (so that they are trained, averaged and
saved with it) and find them there again: the network handed in may be the trained one or its
average.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spaces.quantization.grid import ActivationScales

Bits = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Grids:
    """What a network's layers are rounded to when its training has ended.

    Attributes:
        bits: (weight_bits, act_bits) by convolution.
        scales: Activation scales; None where no activation has a grid.
    """

    bits: Bits
    scales: ActivationScales | None = None


class Method:
    """A training-time method that does nothing; each one overrides the moments it needs.

    `progress` is the share of all steps that lies behind, 0 to 1.
    """

    def install(self, net: nn.Module) -> None:
        """Put parameters, buffers and quantisers into the network, before the first step."""

    def penalty(self, net: nn.Module, progress: float) -> Tensor | None:
        """Return what is added to the loss, after the forward pass."""

    def shape_gradients(self, net: nn.Module, progress: float) -> None:
        """Change the gradients before the optimiser uses them."""

    def after_step(self, net: nn.Module, progress: float) -> None:
        """Change the weights after the optimiser's step."""

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Remove what only the training needed and return what the layers are rounded to.

        Args:
            net: The averaged network, changed in place: float weights (on their grids where it has
                any), no hooks.
            grids: What methods before this one returned.
        """
        return grids
