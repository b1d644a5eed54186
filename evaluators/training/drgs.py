"""Few bits with dynamic rounding and gradient scaling.

(DRGS, as its authors describe it for YOLOv5 at 4 bits in all layers: a weight is rounded in the
direction of its last update, and its gradient is scaled accordingly.) A weight that lies close to
the middle between two integers goes to the one that it moved towards, so that the network feels an
update that nearest rounding would swallow; elsewhere, and once the training is over, it is rounded
to nearest. What passes straight through is scaled by how far the weight is from where it was
rounded to,

    g (1 + SCALE sign(g) (w - q) / step),

so that weights are drawn on towards integers instead of swinging about the middle (Lee et al.,
"Network quantization with element-wise gradient scaling", arXiv 2104.00903). Steps are learned as
in `lsq`; activations keep its symmetric grid, which is what files hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.training.lsq import LearnedGrid, Lsq, original_weight, signed_steps
from spaces.quantization.grid import is_quantized, weight_range
from spaces.quantization.simulate import find_convolution

REACH = 0.2  # from the middle between two integers, in steps: where the last update decides
SCALE = 0.2
DYNAMIC_UNTIL = 0.8  # progress; afterwards rounding is to nearest, as it will be in the file


class _Scaled(torch.autograd.Function):
    """Replaces x by integers and scales the gradient that goes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, integers: Tensor) -> Tensor:
        ctx.save_for_backward(x - integers)
        return integers

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * (1 + SCALE * gradient.sign() * distance), None


class DynamicGrid(LearnedGrid):
    """Rounds a weight in the direction it last moved, where it is close to the middle.

    Args:
        weight: [O, I, kh, kw].
        signs: [O], see `grid_signs`.
        bits: 2 to 8.
    """

    moved: Tensor
    last: Tensor
    is_dynamic: Tensor

    def __init__(self, weight: Tensor, signs: Tensor, bits: int) -> None:
        super().__init__(signed_steps(weight, signs, bits), *weight_range(bits))
        self.register_buffer("moved", torch.zeros_like(weight, dtype=torch.int8))
        self.register_buffer("last", weight.detach().clone())
        self.register_buffer("is_dynamic", torch.tensor(1))

    def forward(self, x: Tensor) -> Tensor:
        """Round a weight."""
        steps = self.steps.view(-1, 1, 1, 1)
        inside = (x / steps).clamp(self.low, self.high)
        with torch.no_grad():
            integers = inside.round()
            if self.training and self.is_dynamic > 0:
                below = inside.floor()
                near = ((inside - below) - 0.5).abs() < REACH
                directed = below + (self.moved > 0)
                integers = torch.where(near & (self.moved != 0), directed, integers)
                integers.clamp_(self.low, self.high)
        scaled: Tensor = _Scaled.apply(inside, integers)
        return scaled * steps

    @torch.no_grad()
    def note(self, weight: Tensor) -> None:
        """Remember in which direction the integers have moved since the last call."""
        self.moved.copy_((weight - self.last).sign() * self.signs.view(-1, 1, 1, 1))
        self.last.copy_(weight)


class Drgs(Lsq):
    """Trains with grids of fixed widths; see the module and `Lsq` for the arguments."""

    def weight_grid(self, weight: Tensor, signs: Tensor, bits: int) -> nn.Module:
        """See Lsq."""
        return DynamicGrid(weight, signs, bits)

    @torch.no_grad()
    def after_step(self, net: nn.Module, progress: float) -> None:
        """Note where weights went."""
        for name, (width, _) in self.bits.items():
            if not is_quantized(width):
                continue
            conv = find_convolution(net, name)
            for grid in conv.get_submodule("parametrizations.weight").children():
                if isinstance(grid, DynamicGrid):
                    grid.note(original_weight(conv))
                    if progress >= DYNAMIC_UNTIL:
                        grid.is_dynamic.zero_()
