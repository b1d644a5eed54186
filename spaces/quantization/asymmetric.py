"""Asymmetric activations: a grid from the lowest to the highest value, with a zero point.

Jacob et al., arXiv 1712.05877: x ~ scale (q - zero) with q in 0 .. 2^b - 1. SiLU is never below
-0.278, so that a symmetric grid leaves almost half of its points unused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.quantization.grid import ActivationScales, largest_integer
from spaces.quantization.simulate import ActivationRounding

BATCH = 8


@dataclass(frozen=True, slots=True)
class AsymmetricRounding(ActivationRounding):
    """Rounds to 2^bits points of low .. high, of which one is 0."""

    low: float
    high: float
    bits: int

    @property
    def scale(self) -> float:
        """The step of the grid."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)  # padding must be exact
        return (high - low) / (2**self.bits - 1) or 1.0

    @property
    def zero_point(self) -> int:
        """The integer that stands for 0."""
        return round(-min(self.low, 0.0) / self.scale)

    def rounded(self, x: Tensor) -> Tensor:
        """Round to the nearest point."""
        zero = self.zero_point
        integers = (x / self.scale).round_().add_(zero).clamp_(0, 2**self.bits - 1)
        return integers.sub_(zero).mul_(self.scale)


@torch.no_grad()
def asymmetric_roundings(
    net: nn.Module, images: Tensor, scales: ActivationScales, bits: int
) -> dict[str, AsymmetricRounding]:
    """Choose the range of the input of every convolution.

    Args:
        net: The dense network.
        images: [N, 3, H, W] in 0..1.
        scales: Clips of its inputs, beyond which either end saturates.
        bits: 2 to 8.
    """
    lows = dict.fromkeys(scales.groups.values(), 0.0)
    highs = dict.fromkeys(scales.groups.values(), 0.0)

    def observe(group: int, x: Tensor) -> None:
        lows[group] = min(lows[group], float(x.min()))
        highs[group] = max(highs[group], float(x.max()))

    handles = [
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, group=group: observe(group, args[0])
        )
        for name, group in scales.groups.items()
    ]
    try:
        for batch in images.split(BATCH):
            net(batch)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, group in scales.groups.items():
        # half the step of a symmetric grid: the clip of one bit more is the one that suits
        clip_bits = min(bits + 1, 8)
        clip = scales.scale(name, clip_bits) * largest_integer(clip_bits)
        found[name] = AsymmetricRounding(max(lows[group], -clip), min(highs[group], clip), bits)
    return found
