"""Least-squares refit: let the channels that are left stand in for those that were removed.

What a convolution loses with an input channel can be predicted to a good part from the channels it
still reads. With x the dense inputs of a layer (all taps of its kernel), K the kept and R the
removed ones, and C their covariance on calibration images, the best linear prediction of x_R is
A x_K, A = C_RK (C_KK + lambda I)^-1, and the layer that reproduces the dense outputs best is

    W' = W_K + W_R A        b' = b + W_R (mean_R - A mean_K)

(ridge regression that shrinks to the weights as they were). With P = (C + lambda I)^-1, which is
the same for all candidates, A is -P_RR^-1 P_RK (inverse of a block matrix): a solve as large as
what was removed, where the first form takes one as large as what is kept. All layers are refit at
once from dense statistics: no forward pass. He et al., Channel Pruning,
ICCV 2017, arXiv 1707.06168, do so for one layer; Hubara et al., AdaQuant, arXiv 2006.10518, call
the choice between all layers at once and one after the other parallel and sequential.

Axis letters: O outputs, I input channels, F features (inputs whose covariance is known), T taps of
the kernel that share a feature, Q = O * T, K kept features, R removed features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hw_models.workload import ConvShape
from spaces.groups import FIXED, Network
from spaces.quantization.patches import patches, sample_positions
from spaces.quantization.simulate import norm_behind

# Of the mean variance of all inputs; .01 to .05 are equally good within noise. What is made with it
# is kept: where it changes, `evaluators.database.FORMAT` must, too.
RIDGE = 0.05
BATCH = 8  # images in one pass
POSITIONS = 16_384  # samples of a layer's input; several times the number of features
# Above it (3 x 3 on more than 256 channels) only covariances of channels are kept: what was removed
# is then predicted tap by tap, somewhat worse, but with an 81st of the memory.
LARGEST_COVARIANCE = 2304
BLOCK = 192  # features whose products with all later ones are computed at once
TINY_VARIANCE = 1e-12  # keeps a layer of dead inputs solvable


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a dense layer reads, F = I * taps features or I.

    Attributes:
        mean_F: Mean of each feature.
        covariance_FF: Their covariance C.
        precision_FF: (C + lambda I)^-1.
    """

    mean_F: Tensor
    covariance_FF: Tensor
    precision_FF: Tensor

    @classmethod
    def of(cls, mean_F: Tensor, covariance_FF: Tensor) -> Inputs:
        """Add the inverse of a covariance with its ridge."""
        ridged_FF = covariance_FF.double()
        ridged_FF.diagonal().add_(RIDGE * ridged_FF.diagonal().mean() + TINY_VARIANCE)
        inverse_FF = torch.cholesky_inverse(torch.linalg.cholesky(ridged_FF))
        return cls(mean_F, covariance_FF, inverse_FF.to(covariance_FF.dtype))


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Mean and covariance of the positions that were looked at so far."""

    count: int
    mean_F: Tensor
    covariance_FF: Tensor

    def and_also(self, other: _Seen) -> _Seen:
        """Return the statistics of both sets of positions (Chan, Golub and LeVeque, 1983)."""
        share = other.count / (self.count + other.count)
        step_F = other.mean_F - self.mean_F
        covariance_FF = torch.lerp(self.covariance_FF, other.covariance_FF, share)
        covariance_FF.addr_(step_F, step_F, alpha=share * (1 - share))
        return _Seen(self.count + other.count, self.mean_F + share * step_F, covariance_FF)


def measure_inputs(net: nn.Module, network: Network, images: Tensor) -> dict[str, Inputs]:
    """Measure what enters each convolution whose input channels may be removed.

    Args:
        net: The dense network in eval mode; not changed.
        network: What `spaces.groups.analyse` found in it.
        images: [N, 3, H, W] in 0..1.

    Returns:
        Statistics by the convolution's module name; one object for all that read the same tensor.
    """
    positions = -(-POSITIONS // len(images))
    readers = WeakTensorKeyDictionary()  # tensor -> for each geometry the first layer that reads it
    first_reader: dict[str, str] = {}
    seen: dict[str, _Seen] = {}

    def record(name: str, conv: nn.Conv2d, x: Tensor) -> None:
        geometry = (conv.kernel_size, conv.stride, conv.padding)
        first = first_reader[name] = readers.setdefault(x, {}).setdefault(geometry, name)
        if first == name:
            now = _look(conv, x, positions)
            seen[name] = seen[name].and_also(now) if name in seen else now

    with torch.no_grad(), _watching(net, [s.name for s, _, _ in _prunable(network)], record):
        for batch in images.split(BATCH):
            net(batch)
    inputs = {name: Inputs.of(each.mean_F, each.covariance_FF) for name, each in seen.items()}
    return {name: inputs[first] for name, first in first_reader.items()}


def refit(
    net: nn.Module,
    dense: nn.Module,
    network: Network,
    kept: NDArray[np.bool_],
    inputs: dict[str, Inputs],
) -> None:
    """Refit all convolutions that lost input channels, in place.

    Args:
        net: What `spaces.compress.compress` made of `dense`.
        dense: The dense network.
        network: What `spaces.groups.analyse` found in `dense`, without the blocks that `net` lacks.
        kept: For each channel number whether it is kept, from `spaces.compress.kept_channels`.
        inputs: What `measure_inputs` returned for `dense`.
    """
    predictors: dict[int, _Predictor] = {}  # layers that read the same tensor share it
    for step, reads, writes in _prunable(network):
        kept_I, kept_O = (torch.from_numpy(kept[channels]) for channels in (reads, writes))
        if kept_I.all():
            continue
        layer = inputs[step.name]
        if id(layer) not in predictors:
            predictors[id(layer)] = _predictor(layer, kept_I)
        conv = cast("nn.Conv2d", dense.get_submodule(step.name))
        store(net, step.name, *predictors[id(layer)].refit(conv.weight.detach()[kept_O]))


@dataclass(frozen=True, slots=True, eq=False)
class _Predictor:
    """How the removed features of a layer follow from the kept ones.

    Attributes:
        kept_K: The kept features.
        removed_R: The removed ones.
        factor_RR: The Cholesky factor of P_RR.
        precision_RF: The rows P_R.
        mean_F: Mean of all features.
    """

    kept_K: Tensor
    removed_R: Tensor
    factor_RR: Tensor
    precision_RF: Tensor
    mean_F: Tensor

    def refit(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the refit of a weight [O, I, kh, kw], [O, kept I, kh, kw], and its shift [O]."""
        outputs, _, *kernel = weight.shape
        # with a Q of all outputs and taps: W' = W - (P_RR^-1 W_R^T)^T P_R, zero where removed
        weight_QF = weight.reshape(outputs, len(self.mean_F), -1).transpose(1, 2).flatten(0, 1)
        removed_RQ = weight_QF.index_select(1, self.removed_R).T
        solved_RQ = torch.cholesky_solve(removed_RQ, self.factor_RR)
        refit_QF = torch.addmm(weight_QF, solved_RQ.T, self.precision_RF, alpha=-1)
        refit_QK = refit_QF.index_select(1, self.kept_K)
        shift_Q = weight_QF @ self.mean_F - refit_QK @ self.mean_F[self.kept_K]
        refit_OKT = refit_QK.view(outputs, -1, len(self.kept_K)).transpose(1, 2)
        return refit_OKT.reshape(outputs, -1, *kernel), shift_Q.view(outputs, -1).sum(1)


def _predictor(inputs: Inputs, kept_I: Tensor) -> _Predictor:
    kept_F = kept_I.repeat_interleave(len(inputs.mean_F) // len(kept_I))
    kept_K, removed_R = (which_F.nonzero().flatten() for which_F in (kept_F, ~kept_F))
    precision_RF = inputs.precision_FF.index_select(0, removed_R)
    factor_RR = torch.linalg.cholesky(precision_RF.index_select(1, removed_R))
    return _Predictor(kept_K, removed_R, factor_RR, precision_RF, inputs.mean_F)


def _prunable(network: Network) -> Iterator[tuple[ConvShape, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield dense convolutions that read channels of a group, with what they read and write."""
    for step, reads, writes in zip(network.steps, network.reads, network.writes, strict=True):
        if isinstance(step, ConvShape) and step.groups == 1 and (reads != FIXED).any():
            yield step, reads, writes


@contextmanager
def _watching(
    net: nn.Module, names: list[str], look: Callable[[str, nn.Conv2d, Tensor], None]
) -> Iterator[None]:
    handles = [
        net.get_submodule(name).register_forward_pre_hook(
            lambda conv, args, name=name: look(name, cast("nn.Conv2d", conv), args[0])
        )
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _look(conv: nn.Conv2d, x_NIHW: Tensor, positions: int) -> _Seen:
    """Measure some positions of each image."""
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    if taps == 1 or conv.in_channels * taps > LARGEST_COVARIANCE:
        x_NIP = x_NIHW.flatten(2)
        chosen_Np = sample_positions(len(x_NIP), x_NIP.shape[2], positions * len(x_NIP))
        index_NIp = chosen_Np[:, None].expand(-1, x_NIP.shape[1], -1)
        x_PF = x_NIP.gather(2, index_NIp).transpose(1, 2).flatten(0, 1)
    else:
        cells = math.prod(
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                x_NIHW.shape[2:],
                cast("tuple[int, int]", conv.padding),
                conv.kernel_size,
                conv.stride,
                strict=True,
            )
        )
        chosen_Np = sample_positions(len(x_NIHW), cells, positions * len(x_NIHW))
        x_PF = patches(conv, x_NIHW, chosen_Np)
    mean_F = x_PF.mean(0)
    return _Seen(len(x_PF), mean_F, second_moments(x_PF - mean_F))


def second_moments(x_PF: Tensor) -> Tensor:
    """Return x^T x / P [F, F] of samples; of the symmetric halves only one is computed."""
    features = x_PF.shape[1]
    moments_FF = x_PF.new_empty(features, features)
    for start in range(0, features, BLOCK):
        stop = min(start + BLOCK, features)
        rows = x_PF[:, start:stop].T @ x_PF[:, start:]
        moments_FF[start:stop, start:] = rows
        moments_FF[start:, start:stop] = rows.T
    return moments_FF.div_(len(x_PF))


def store(net: nn.Module, name: str, weight: Tensor, shift: Tensor) -> None:
    """Set a convolution's weight and shift its output: by its bias, or by the norm behind it."""
    conv = cast("nn.Conv2d", net.get_submodule(name))
    norm = norm_behind(net, name)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.add_(shift)
        elif norm is not None and norm.running_mean is not None:
            norm.running_mean.sub_(shift)
        else:
            conv.bias = nn.Parameter(shift, requires_grad=False)
