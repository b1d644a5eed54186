"""A layer, or all layers of a network, with their sparsity patterns.

With second moments of what a layer reads, weights are chosen by what their removal would cost
(`obs`, for entries of kernels `descent`) and those left are fitted again (`adaprune`); without, the
largest stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from spaces.candidate import check_names
from spaces.groups import Network
from spaces.sparsity import adaprune, descent, obs
from spaces.sparsity.entries import Entries
from spaces.sparsity.families import families
from spaces.sparsity.names import pattern_for
from spaces.sparsity.pattern import Pattern


@torch.no_grad()
def sparsify(weight: Tensor, pattern: Pattern, hessian_FF: Tensor | None = None) -> Tensor:
    """Return a layer's weight with a pattern.

    Args:
        weight: [O, I, kh, kw], with outputs to be kept.
        pattern: One that fits the kernel.
        hessian_FF: Second moments (or covariance) of what the layer reads, in any unit: of its F =
            I * kh * kw features or, where that is too much, of its I channels. None: nothing is
            known, the largest weights stay as they are.
    """
    if hessian_FF is None:
        return weight * pattern.mask(weight**2)
    hessian_FF = obs.damped(hessian_FF)
    rows = _rows(weight, len(hessian_FF))
    cost = _unrows(obs.importance(rows, hessian_FF), weight.shape)
    mask = _rows(pattern.mask(cost), len(hessian_FF))
    if isinstance(pattern, Entries) and len(rows) == len(weight):
        mask = descent.choose(rows, mask, hessian_FF, pattern.masks())
    return _unrows(adaprune.fit(rows, mask, hessian_FF), weight.shape)


def patterns_of(
    net: nn.Module, network: Network, patterns: Mapping[str, str]
) -> dict[str, Pattern]:
    """Return the pattern of each layer that has one other than dense, entries as inherited.

    Args:
        net: The network before its patterns, dense or sliced.
        network: What `spaces.groups.analyse` found in the dense network.
        patterns: (layer, name of a pattern).

    Raises:
        InputError: If a name is no layer or no pattern, or the pattern does not fit the layer.
    """
    check_names("layer", patterns, [layer.name for layer in network.layers])
    head_of = families(network)
    of_family: dict[tuple[str, str], Pattern] = {}
    result: dict[str, Pattern] = {}
    for layer in network.layers:
        pattern = pattern_for(layer, patterns.get(layer.name, "dense"))
        if isinstance(pattern, Entries):
            key = (head_of[layer.name], pattern.name)
            if key not in of_family:
                family = (other for other in network.layers if head_of[other.name] == key[0])
                parent = next(other for other in family if pattern.fits(other.kernel))
                of_family[key] = pattern.learnt(_conv(net, parent.name).weight.detach() ** 2)
            pattern = of_family[key]
        if pattern.name != "dense":
            result[layer.name] = pattern
    return result


def _conv(net: nn.Module, name: str) -> nn.Conv2d:
    return cast("nn.Conv2d", net.get_submodule(name))


def _rows(weight: Tensor, features: int) -> Tensor:
    """Return the weights of one output and, if features are channels, one tap as a row."""
    outputs = len(weight)
    return weight.reshape(outputs, features, -1).transpose(1, 2).reshape(-1, features)


def _unrows(rows: Tensor, shape: torch.Size) -> Tensor:
    taps = len(rows) // shape[0]
    return rows.reshape(shape[0], taps, -1).transpose(1, 2).reshape(shape)
