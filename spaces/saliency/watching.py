"""Look at the blocks of a network while it runs over images, and at the gradients that come back.

Letters: B images of one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from spaces.saliency.objectives import Objective

IMAGES_AT_ONCE = 4  # all maps of these are kept for the way back


def blocks(net: nn.Module) -> dict[str, Conv]:
    """Return the blocks of convolution, batch norm and activation by their names."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Conv)}


def watch_outputs(
    net: nn.Module, images: Tensor, look: Callable[[nn.Module, Tensor], None]
) -> None:
    """Show the output of every block, batch by batch.

    Args:
        net: In evaluation mode.
        images: [N, 3, H, W] in 0..1.
        look: Is called with a block and its output [B, C, h, w].
    """
    handles = [
        block.register_forward_hook(lambda block, _, output: look(block, output))
        for block in blocks(net).values()
    ]
    try:
        with torch.inference_mode():
            for batch in images.split(IMAGES_AT_ONCE):
                net(batch)
    finally:
        for handle in handles:
            handle.remove()


def watch_gradients(
    net: nn.Module,
    names: Sequence[str],
    images: Tensor,
    objective: Objective,
    look: Callable[[str, Tensor, Tensor, Tensor], None],
) -> None:
    """Show what modules read and wrote, and the gradient of an objective by it, batch by batch.

    Args:
        net: In evaluation mode; not changed.
        names: Modules with one input and one output.
        images: [N, 3, H, W] in 0..1.
        objective: Of the network's outputs; the sum over images.
        look: Is called with a module's name, its input, its output and the gradient.
    """
    net = differentiable(net)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with _noting(net, names, seen), torch.enable_grad():
        for batch in images.split(IMAGES_AT_ONCE):
            seen.clear()
            value = objective(net(batch))
            gradients = torch.autograd.grad(value, [output for _, output in seen.values()])
            for (name, (x, output)), gradient in zip(seen.items(), gradients, strict=True):
                look(name, x, output.detach(), gradient)


def weight_gradients(
    net: nn.Module, names: Sequence[str], images: Tensor, objective: Objective
) -> Iterator[dict[str, Tensor]]:
    """Yield for each image the gradient of an objective by the weights of some convolutions.

    Args:
        net: In evaluation mode; not changed.
        names: Convolutions.
        images: [N, 3, H, W] in 0..1.
        objective: Of the network's outputs.
    """
    net = differentiable(net)
    weights = [net.get_parameter(f"{name}.weight").requires_grad_(True) for name in names]
    for image in images.split(1):
        with torch.enable_grad():
            gradients = torch.autograd.grad(objective(net(image)), weights)
        yield dict(zip(names, gradients, strict=True))


def differentiable(net: nn.Module) -> nn.Module:
    """Return a copy that gradients pass through; its parameters want none."""
    net = copy.deepcopy(net).requires_grad_(False)
    module: Any
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if hasattr(module, "anchors") and hasattr(module, "shape"):
            # ultralytics' Detect keeps its grid of the last picture size, perhaps one that was
            # made in inference mode: autograd refuses that.
            module.shape = None
    return net


@contextmanager
def _noting(
    net: nn.Module, names: Sequence[str], seen: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    def note(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)  # the first ones: nothing before them wants a gradient
        seen[name] = (inputs[0].detach(), output)

    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: note(name, inputs, output)
        )
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
