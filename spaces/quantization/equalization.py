"""Cross-layer equalisation: the same network with channels of like range.

Nagel et al., Data-free quantization, arXiv 1906.04721: where a convolution feeds one other through
an activation with f(s x) = s f(x), s > 0 (ReLU, LeakyReLU, none), its channel i may be divided and
the other's input i multiplied by s_i = sqrt(r1_i / r2_i), r the largest magnitudes: no output
changes, and one step for the whole tensor fits all channels better. SiLU and Hardswish have no such
property; their pairs are not equalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hw_models.errors import InputError
from spaces.quantization.simulate import find_convolution

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity)


def can_equalize(activation: nn.Module) -> bool:
    """Tell whether f(s x) = s f(x) for all s > 0."""
    return isinstance(activation, HOMOGENEOUS)


@torch.no_grad()
def equalize(net: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    """Equalise pairs of convolutions, in place; outputs stay the same up to rounding errors.

    Args:
        net: Batch norms folded or behind the convolutions that they belong to.
        pairs: (writer, reader) by module name: the reader reads the writer's output and nothing
            else, and nobody else reads it.

    Raises:
        InputError: If a name is no convolution or the writer's activation is not homogeneous.
    """
    for first, second in pairs:
        block = net.get_submodule(first.rpartition(".")[0])
        activation = getattr(block, "act", nn.Identity())
        if not can_equalize(activation):
            raise InputError(
                f"{first} cannot be equalised with {second}: expected an activation with"
                f" f(s x) = s f(x) between them, got {type(activation).__name__}.",
                "Equalise models with ReLU or LeakyReLU only.",
            )
        writer, reader = find_convolution(net, first), find_convolution(net, second)
        norm = getattr(block, "bn", None)
        gain = _gains(norm) if isinstance(norm, nn.BatchNorm2d) else torch.ones(len(writer.weight))
        ranges_1 = writer.weight.abs().flatten(1).amax(1) * gain
        ranges_2 = reader.weight.abs().amax((0, 2, 3))
        alive = (ranges_1 > 0) & (ranges_2 > 0)
        factors = torch.where(alive, (ranges_1 / ranges_2).sqrt(), 1.0)
        _divide(norm if isinstance(norm, nn.BatchNorm2d) else writer, factors)
        reader.weight.mul_(factors.view(1, -1, 1, 1))


def _gains(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)


def _divide(module: nn.Conv2d | nn.BatchNorm2d, factors: Tensor) -> None:
    """Divide what a module writes, channel by channel."""
    module.weight.div_(factors.view(-1, *[1] * (module.weight.ndim - 1)))
    if module.bias is not None:
        module.bias.div_(factors)
