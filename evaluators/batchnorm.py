"""Batch-norm re-estimation: give every channel of a compressed network its dense distribution back.

Removing channels changes mean and variance of what the next convolutions write, and the batch norms
behind them still expect the old ones. *Adaptive batch norm* (Li et al., EagleEye, ECCV 2020,
arXiv 2007.02491) replaces the running statistics by those of some images. That presumes that the
running statistics *are* the dense ones; a checkpoint whose norms were folded into the weights has
(0, 1) there, and would be destroyed.

So the statistics are *matched* instead. With mu_d, var_d the dense moments of a norm's input, mu_c,
var_c the compressed ones and k = sqrt(var_c / var_d), the norm gets

    mean' = mu_c - k (mu_d - mean)        var' = k² (var + eps) - eps

whereupon its output has the dense mean and variance. Where mean = mu_d and var = var_d this is
adaptive batch norm. C: channels of one norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

LARGEST_RATIO = 32.0  # of standard deviations: beyond it a channel is noise, not a scaled signal
TINY_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and variance of a norm's input [C] over images, rows and columns."""

    mean_C: Tensor
    var_C: Tensor

    def of(self, channels: Tensor) -> Moments:
        """Return the moments of some of the channels (indices or a mask)."""
        return Moments(self.mean_C[channels], self.var_C[channels])


def measure_moments(net: nn.Module, images: Tensor) -> dict[str, Moments]:
    """Measure what enters each batch norm.

    Args:
        net: In eval mode; not changed.
        images: [N, 3, H, W] in 0..1, all in one pass.

    Returns:
        Moments by the norm's module name.
    """
    measured: dict[str, Moments] = {}

    def record(name: str, _norm: nn.BatchNorm2d, x: Tensor) -> None:
        measured[name] = _moments(x)

    with torch.inference_mode(), _watching(net, record):
        net(images)
    return measured


def match_moments(net: nn.Module, images: Tensor, dense: Mapping[str, Moments]) -> None:
    """Correct all batch norms in one forward pass, each before the next layer sees its output.

    Args:
        net: A compressed network in eval mode; its norms are changed in place.
        images: [N, 3, H, W] in 0..1, the ones `dense` was measured on.
        dense: For each norm to correct, the dense moments of the channels it still has.
    """

    def correct(name: str, norm: nn.BatchNorm2d, x: Tensor) -> None:
        if name in dense:
            _match(norm, _moments(x), dense[name])

    with torch.no_grad(), _watching(net, correct):
        net(images)


def _moments(x: Tensor) -> Moments:
    # five times as fast as torch.var_mean, and exact enough: means are no more than some deviations
    mean = x.mean((0, 2, 3))
    variance = x.square().mean((0, 2, 3)) - mean.square()
    return Moments(mean, variance.clamp_min(0))


@contextmanager
def _watching(
    net: nn.Module, look: Callable[[str, nn.BatchNorm2d, Tensor], None]
) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: look(name, m, args[0]))
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _match(norm: nn.BatchNorm2d, now: Moments, dense: Moments) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    ratio = torch.sqrt(now.var_C / dense.var_C.clamp_min(TINY_VARIANCE))
    ratio = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
    ratio = torch.where(dense.var_C > TINY_VARIANCE, ratio, torch.ones_like(ratio))
    scale = ratio * torch.sqrt(norm.running_var + norm.eps)
    variance = (scale.square() - norm.eps).clamp_min(0)
    if norm.weight is not None:  # carries what a variance below eps cannot express
        norm.weight.mul_(torch.sqrt(variance + norm.eps) / scale)
    norm.running_mean.copy_(now.mean_C - ratio * (dense.mean_C - norm.running_mean))
    norm.running_var.copy_(variance)


def fold_batchnorm(net: nn.Module) -> nn.Module:
    """Fold each norm into the convolution before it, in place; hooks of convolutions stay.

    Args:
        net: In eval mode; its blocks have a convolution `conv` and a norm `bn` behind it.

    Returns:
        The same network.
    """
    for block in net.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            block.bn = nn.Identity()
    return net
