"""Sequential reconstruction: every layer makes up for what all layers before it lost.

The convolutions of a compressed network are visited in the order in which they run, in one forward
pass. Each sees what really arrives (channels missing, activations rounded, errors of all layers
before it) and gets, before it runs:

1. the weights that best predict the *dense* network's output of that convolution from it: ridge
   regression that shrinks to the weights as they were, as far as the images say,

       W' = W + R^T X (X^T X + lambda I)^-1,    R = Y - X W^T (all centred),

2. where it has a sparsity pattern, the weights that are kept, fitted again (`spaces.sparsity`),
3. where its weights have few bits, the grid and the rounding that cost least with X^T X as Hessian
   (`spaces.quantization.rounding.auto`),
4. the bias that gives every output channel its dense mean there.

The regression as in Channel Pruning (He et al., arXiv 1707.06168), one layer after the other as in
AdaQuant's sequential mode (Hubara et al., arXiv 2006.10518) and GPTQ. All this at some positions of
the output maps, more of them where detections come from (`evaluators.influence`); images need no
labels.

Axis letters: N images, p positions of one image, P = N * p, I input channels, O kept output
channels, F features (input channels times taps of the kernel).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluators.refit import second_moments, store
from hw_models.workload import ConvShape
from spaces.groups import Network
from spaces.quantization.grid import ActivationScales, is_quantized
from spaces.quantization.patches import patches
from spaces.quantization.rounding.auto import WeightRounding, auto_below_8
from spaces.quantization.simulate import grid_signs, quantize
from spaces.sparsity.pattern import Pattern
from spaces.sparsity.sparsify import patterns_of, sparsify

RIDGES = (0.5, 0.1, 0.02, 0.005)  # of the mean variance of a layer's features
KNOWN_SHARE = 0.75  # of the images: the others tell which ridge is best
TINY_VARIANCE = 1e-12  # keeps a layer of dead inputs solvable
UNTOUCHED = (16, 16)


@dataclass(frozen=True, slots=True)
class Method:
    """How weights are fitted and rounded.

    Attributes:
        round_weight: How weights of few bits are rounded.
        ridges: Strengths of the regression to choose from, of the mean variance of a layer's
            features; none for no regression.
    """

    round_weight: WeightRounding = auto_below_8
    ridges: Sequence[float] = RIDGES


DEFAULT = Method()


@dataclass(frozen=True, slots=True, eq=False)
class DenseOutputs:
    """What the dense network's convolutions write at some positions of some images.

    Attributes:
        images: [N, 3, H, W] in 0..1.
        positions: For each convolution the positions in its output map, row by row, [N, p].
        outputs: For each convolution what it writes there, float32 [P, dense outputs].
    """

    images: Tensor
    positions: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@torch.no_grad()
def reconstruct(
    net: nn.Module,
    dense: DenseOutputs,
    network: Network,
    kept: NDArray[np.bool_],
    bits: Mapping[str, tuple[int, int]],
    scales: ActivationScales | None = None,
    patterns: Mapping[str, str] | None = None,
    method: Method = DEFAULT,
) -> None:
    """Fit, round and install the bits of all convolutions of a sliced network, in place.

    Up to the first layer that lost an input channel, has few bits or comes behind a dropped block
    nothing changes: without any, the network stays bit-identical.

    Args:
        net: What `spaces.compress.compress` made of the dense network.
        dense: What `evaluators.influence.measure_outputs` returned for the dense network.
        network: What `spaces.groups.analyse` found in the dense network, without the blocks that
            `net` lacks.
        kept: For each channel number whether it is kept, from `spaces.compress.kept_channels`.
        bits: (weight_bits, act_bits) by convolution; 16 for a convolution that is not named.
        scales: Activation scales of the dense network; needed where an activation has a grid.
        patterns: Sparsity pattern by convolution; dense for one that is not named.
        method: How weights are fitted and rounded; zeros stay zeros.

    Raises:
        InputError: If a name is no convolution or no pattern, a scale is missing, or a width has no
            grid.
    """
    chosen = patterns_of(net, network, patterns or {})
    quantize(net, {name: (32, act_bits) for name, (_, act_bits) in bits.items()}, scales)
    changed = False
    in_dense_network = iter(dense.outputs)  # in execution order

    def visit(conv: nn.Conv2d, x_NIHW: Tensor, layer: str, kept_O: Tensor, whole: bool) -> None:
        nonlocal changed
        weight_bits, act_bits = bits.get(layer, UNTOUCHED)
        pattern = chosen.get(layer)
        changed |= not whole or is_quantized(weight_bits) or is_quantized(act_bits)
        changed |= pattern is not None
        changed = changed or next(in_dense_network) != layer  # else a block before it was dropped
        if changed:
            x_PF = patches(conv, x_NIHW, dense.positions[layer])
            signs_O = grid_signs(net, layer)
            y_PO = dense.outputs[layer][:, kept_O]
            fitted = _fit(conv, x_PF, y_PO, signs_O, weight_bits, pattern, method)
            store(net, layer, *fitted)

    handles = []
    for step, reads, writes in zip(network.steps, network.reads, network.writes, strict=True):
        if isinstance(step, ConvShape):
            conv = cast("nn.Conv2d", net.get_submodule(step.name))
            place = (step.name, torch.from_numpy(kept[writes]), bool(kept[reads].all()))
            handles.append(
                conv.register_forward_pre_hook(
                    lambda conv, args, place=place: visit(conv, args[0], *place)
                )
            )
    try:
        net(dense.images)
    finally:
        for handle in handles:
            handle.remove()


def _fit(
    conv: nn.Conv2d,
    x_PF: Tensor,
    y_PO: Tensor,
    signs_O: Tensor,
    weight_bits: int,
    pattern: Pattern | None,
    method: Method,
) -> tuple[Tensor, Tensor]:
    """Return the new weight of a convolution and the shift of its output [O].

    A grouped convolution is fitted group by group. Rows of negative `signs_O` are rounded mirrored.
    """
    weights, shifts = [], []
    parts = zip(
        conv.weight.chunk(conv.groups),
        x_PF.chunk(conv.groups, 1),
        y_PO.chunk(conv.groups, 1),
        signs_O.view(-1, 1, 1, 1).chunk(conv.groups),
        strict=True,
    )
    for weight, of_x_PF, of_y_PO, signs in parts:
        x_F, y_O = of_x_PF.mean(0), of_y_PO.mean(0)
        x_PF, y_PO = of_x_PF - x_F, of_y_PO - y_O
        missed_PO = y_PO - x_PF @ weight.flatten(1).T
        split = round(len(x_PF) * KNOWN_SHARE)  # samples are in the order of images
        known = _Moments.of(x_PF[:split], missed_PO[:split])
        held = _Moments.of(x_PF[split:], missed_PO[split:])
        fitted = _regress(weight, known, held, method.ridges)
        second_FF = known.and_also(held).inputs_FF
        if pattern is not None:
            fitted = sparsify(fitted, pattern, second_FF)
        if is_quantized(weight_bits):
            fitted = method.round_weight(fitted * signs, second_FF, weight_bits) * signs
        weights.append(fitted)
        shifts.append(y_O - fitted.flatten(1) @ x_F)
    shift = torch.cat(shifts)
    return torch.cat(weights), shift if conv.bias is None else shift - conv.bias


def _regress(weight: Tensor, known: _Moments, held: _Moments, ridges: Sequence[float]) -> Tensor:
    """Return the weight that predicts what is missed at the output best.

    How far it may move is chosen by evidence: by the ridge with which the weight fitted to some
    images does best on the others, which may be no change at all. What missing channels lose can be
    predicted well, what 8-bit activations lose can hardly be.

    Args:
        weight: [O, I, kh, kw].
        known: Of the images to fit to.
        held: Of the others.
        ridges: Strengths to choose from.
    """
    both = known.and_also(held)
    best, least = None, 0.0
    for ridge in ridges:
        error = held.error(known.solve(ridge))
        if error < least:
            best, least = ridge, error
    return weight if best is None else weight + both.solve(best).reshape(weight.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Second moments of P centred samples.

    Attributes:
        count: P.
        inputs_FF: x^T x / P.
        missed_OF: m^T x / P with m = y - W x, what the layer's weights miss.
    """

    count: int
    inputs_FF: Tensor
    missed_OF: Tensor

    @classmethod
    def of(cls, x_PF: Tensor, missed_PO: Tensor) -> _Moments:
        """Measure samples."""
        return cls(len(x_PF), second_moments(x_PF), missed_PO.T @ x_PF / len(x_PF))

    def and_also(self, other: _Moments) -> _Moments:
        """Return the moments of both sets of samples."""
        count = self.count + other.count
        share = other.count / count
        return _Moments(
            count,
            self.inputs_FF.lerp(other.inputs_FF, share),
            self.missed_OF.lerp(other.missed_OF, share),
        )

    def solve(self, ridge: float) -> Tensor:
        """Return the change of the weights [O, F] of ridge regression."""
        strength = ridge * self.inputs_FF.diagonal().mean() + TINY_VARIANCE
        factor = torch.linalg.cholesky(self.inputs_FF + strength * torch.eye(len(self.inputs_FF)))
        return torch.cholesky_solve(self.missed_OF.T, factor).T

    def error(self, change_OF: Tensor) -> float:
        """Return by how much the squared error grows with a change of the weights."""
        grown_OF = change_OF @ self.inputs_FF - 2 * self.missed_OF
        return float((grown_OF * change_OF).sum())
