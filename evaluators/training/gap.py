"""Global AdaPrune: all layers together learn the dense model's outputs, without any labels.

(gAP of Frantar and Alistarh, "SPDY", arXiv 2201.13096, section 3.3.) After pruning layer by layer,
errors have piled up; the sum over all convolutions

    || y - y_dense ||² / || y_dense ||²

is lowered by gradient descent on the calibration images, with zeros and roundings kept. A sliced
layer is compared in the channels that it still has.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.training.method import Grids, Method
from spaces.quantization.simulate import find_convolution

SEEN = "gap_seen"  # a module keeps here what it computed in this step
TINY = 1e-12


class GlobalReconstruction(Method):
    """Adds the relative errors of all layers to the loss.

    Args:
        teacher: The dense network; it is not changed.
        kept: Which of its output channels each convolution still has, as indices [C].
    """

    def __init__(self, teacher: nn.Module, kept: Mapping[str, Tensor]) -> None:
        self._teacher = copy.deepcopy(teacher).eval()
        self._kept = dict(kept)
        for name in self._kept:
            find_convolution(self._teacher, name).register_forward_hook(_remember)

    def install(self, net: nn.Module) -> None:
        """Let every layer, and the network as a whole, remember the last step."""
        net.register_forward_pre_hook(_remember_images)
        for name in self._kept:
            find_convolution(net, name).register_forward_hook(_remember)

    def penalty(self, net: nn.Module, progress: float) -> Tensor:
        """Return the sum of the layers' relative errors [scalar]."""
        del progress
        images = _take(net)
        with torch.no_grad():
            self._teacher.to(images.device)(images)
        errors = []
        for name, channels in self._kept.items():
            ours = _take(find_convolution(net, name))
            theirs = _take(find_convolution(self._teacher, name))
            theirs = theirs[:, channels.to(theirs.device)]
            errors.append((ours - theirs).square().sum() / theirs.square().sum().clamp(min=TINY))
        return torch.stack(errors).sum()

    def finish(self, net: nn.Module, grids: Grids) -> Grids:
        """Forget what was remembered."""
        for module in (net, *(find_convolution(net, name) for name in self._kept)):
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                kinds = (_remember, _remember_images)
                for key in [key for key, hook in hooks.items() if hook in kinds]:
                    del hooks[key]
            module.__dict__.pop(SEEN, None)
        return grids


def _remember(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    del args
    module.__dict__[SEEN] = output


def _remember_images(module: nn.Module, args: tuple[Any, ...]) -> None:
    module.__dict__[SEEN] = args[0]


def _take(module: nn.Module) -> Tensor:
    """Return what a module remembers, and let it forget: the graph is not to be kept."""
    seen: Tensor = module.__dict__.pop(SEEN)
    return seen
