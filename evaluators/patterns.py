"""The sparsity patterns of a candidate, put into its network.

All layers at once, each fitted to what the dense network's layer reads: some matrix solves and no
forward pass. `evaluators.reconstruct` does it layer after layer on what really arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluators.refit import Inputs, store
from hw_models.workload import ConvShape
from spaces.groups import Network
from spaces.sparsity.sparsify import patterns_of, sparsify


@torch.no_grad()
def apply_patterns(
    net: nn.Module,
    network: Network,
    kept: NDArray[np.bool_],
    patterns: Mapping[str, str],
    inputs: Mapping[str, Inputs],
) -> None:
    """Give layers their patterns, in place; the weights that are left make up for the others.

    Args:
        net: What `spaces.compress.compress` made of the dense network, and a refit of that.
        network: What `spaces.groups.analyse` found in the dense network, without the blocks that
            `net` lacks.
        kept: For each channel number whether it is kept, from `spaces.compress.kept_channels`.
        patterns: (layer, name of a pattern).
        inputs: What `evaluators.refit.measure_inputs` returned for the dense network; the weights
            of a layer without are left as they are, those that the pattern keeps.

    Raises:
        InputError: If a name is no pattern.
    """
    chosen = patterns_of(net, network, patterns)
    for step, reads in zip(network.steps, network.reads, strict=True):
        if not isinstance(step, ConvShape) or step.name not in chosen:
            continue
        weight = cast("nn.Conv2d", net.get_submodule(step.name)).weight.detach()
        layer = inputs.get(step.name)
        if layer is None:
            shift = torch.zeros(len(weight))
            store(net, step.name, sparsify(weight, chosen[step.name]), shift)
            continue
        left = torch.from_numpy(kept[reads])
        kept_F = left.repeat_interleave(len(layer.mean_F) // len(left))
        hessian_FF = layer.covariance_FF[kept_F][:, kept_F]
        sparse = sparsify(weight, chosen[step.name], hessian_FF)
        taps = weight[0].numel() // int(kept_F.sum())
        change_OF = (weight - sparse).reshape(len(weight), -1, taps).sum(2)
        store(net, step.name, sparse, change_OF @ layer.mean_F[kept_F])
