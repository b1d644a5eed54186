"""Collapse guard: have the detections of a compressed network vanished, and where first?

A candidate that no longer sees anything costs as much to evaluate as a good one and says only
mAP 0. Two passes over a few unlabelled images tell as much, and where it happened: the blocks of
the compressed network are compared with the same channels of the dense one, in execution order.

Axis letters: N images, C channels that are kept, A anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hw_models.workload import ConvShape
from spaces.groups import Network

SUREST_ANCHORS = 64  # of each image; several for each object
SMALLEST_CONFIDENCE = 0.1  # of the dense one; mAP is below a tenth of the dense one's there
BROKEN_ERROR = 0.5  # of the variance; healthy compressed layers are far below it
TINY_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Collapse:
    """How a compressed network failed.

    Attributes:
        confidence: Share of the dense model's confidence that is left where it is surest, in 0..1.
        layer: The first convolution whose block is broken; the worst one if none is.
        error: The squared error of that block's output over the dense one's variance.
    """

    confidence: float
    layer: str
    error: float

    def __str__(self) -> str:
        return (
            f"the detections vanish: {self.confidence:.1%} of the dense model's confidence is left,"
            f" expected at least {SMALLEST_CONFIDENCE:.0%}; the first broken layer is {self.layer},"
            f" where the output is off by {self.error:.2f} of its variance"
        )


@torch.no_grad()
def find_collapse(
    net: nn.Module, dense: nn.Module, network: Network, kept: NDArray[np.bool_], images: Tensor
) -> Collapse | None:
    """Compare a compressed network with the dense one.

    Args:
        net: What became of `dense`, in eval mode: sliced, quantised, with its norms folded or not.
        dense: The dense network in eval mode.
        network: What `spaces.groups.analyse` found in `dense`, without the blocks that `net` lacks.
        kept: For each channel number whether it is kept, from `spaces.compress.kept_channels`.
        images: [N, 3, H, W] in 0..1; some 8 are enough.

    Returns:
        None where the detections are still there.
    """
    outputs: dict[str, Tensor] = {}
    with _watching(dense, network, outputs.__setitem__):
        expected_NXA = dense(images)
    errors: dict[str, float] = {}
    writes = {
        step.name: torch.from_numpy(kept[channels])
        for step, channels in zip(network.steps, network.writes, strict=True)
        if isinstance(step, ConvShape)
    }

    def compare(name: str, output: Tensor) -> None:
        errors[name] = _relative_error(output, outputs[name][:, writes[name]])

    with _watching(net, network, compare):
        found_NXA = net(images)
    confidence = _confidence_left(found_NXA, expected_NXA)
    if confidence >= SMALLEST_CONFIDENCE:
        return None
    worst = max(errors, key=errors.__getitem__)
    layer = next((name for name, error in errors.items() if error > BROKEN_ERROR), worst)
    return Collapse(confidence, layer, errors[layer])


def _confidence_left(found_NXA: Tensor, expected_NXA: Tensor) -> float:
    """Return the scores at the anchors and classes the dense model is surest of, over its own."""
    best_NA, label_NA = expected_NXA[:, 4:].max(1)
    count = min(SUREST_ANCHORS, best_NA.shape[1])
    best_NR, anchors_NR = best_NA.topk(count)
    now_NA = found_NXA[:, 4:].gather(1, label_NA[:, None])[:, 0]
    now_NR = torch.minimum(now_NA.gather(1, anchors_NR), best_NR)
    return float(now_NR.nan_to_num(0.0).sum() / best_NR.sum())


def _relative_error(found_NCHW: Tensor, expected_NCHW: Tensor) -> float:
    mean_C11 = expected_NCHW.mean((0, 2, 3), keepdim=True)
    variance = (expected_NCHW - mean_C11).square().mean().clamp_min(TINY_VARIANCE)
    error = float((found_NCHW - expected_NCHW).square().mean() / variance)
    return error if np.isfinite(error) else float("inf")


@contextmanager
def _watching(
    net: nn.Module, network: Network, look: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Show the output of each convolution's block, or of a convolution that has none."""
    handles = []
    for layer in network.layers:
        block = net.get_submodule(layer.name.removesuffix(".conv"))
        handles.append(
            block.register_forward_hook(lambda _, __, y, name=layer.name: look(name, y.detach()))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
