"""Where on the output maps the detections come from, and dense outputs sampled there.

Most positions of a map are background that no detection depends on. The curvature of a distance
between detections (`spaces.saliency.objectives`) sits at about a twentieth of them. A layer that is
fitted to the dense one's outputs should be right there first: half of the positions are drawn
everywhere alike (what is silent must stay so), half by curvature.

Axis letters: N images, B of them at once, L positions of a map, p sampled ones of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.reconstruct import DenseOutputs
from spaces.groups import Network
from spaces.saliency.objectives import random_projection
from spaces.saliency.watching import watch_gradients

POSITIONS = 8192  # samples of a layer's output over all images: some times its features
TINY_ENERGY = 1e-30


def measure_outputs(net: nn.Module, network: Network, images: Tensor) -> DenseOutputs:
    """Run the dense network, forward and backward, and keep samples of what convolutions write.

    Args:
        net: The dense network in eval mode; not changed.
        network: What `spaces.groups.analyse` found in it.
        images: [N, 3, H, W] in 0..1.
    """
    generator = torch.Generator().manual_seed(0)
    positions: dict[str, list[Tensor]] = {layer.name: [] for layer in network.layers}
    outputs: dict[str, list[Tensor]] = {layer.name: [] for layer in network.layers}
    each = -(-POSITIONS // len(images))

    def record(name: str, _x: Tensor, output_BOhw: Tensor, gradient_BOhw: Tensor) -> None:
        flat_BOL = output_BOhw.flatten(2)
        energy_BL = gradient_BOhw.square().sum(1).flatten(1)
        chosen_Bp = influential_positions(energy_BL, each, generator)
        index_BOp = chosen_Bp[:, None].expand(-1, flat_BOL.shape[1], -1)
        positions[name].append(chosen_Bp)
        outputs[name].append(flat_BOL.gather(2, index_BOp).transpose(1, 2).flatten(0, 1))

    objective = random_projection(generator)
    watch_gradients(net, list(positions), images, objective, record)
    return DenseOutputs(
        images,
        {name: torch.cat(parts) for name, parts in positions.items()},
        {name: torch.cat(parts) for name, parts in outputs.items()},
    )


def influential_positions(energy_BL: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions of each image without repetition [B, p], half alike, half by energy.

    Args:
        energy_BL: Squared gradient at each position.
        count: How many to draw; all positions where there are no more.
        generator: What the choice depends on.
    """
    images, size = energy_BL.shape
    if count >= size:
        return torch.arange(size).expand(images, -1)
    chance_BL = 1 + energy_BL / energy_BL.mean(1, keepdim=True).clamp_min(TINY_ENERGY)
    chosen_Bp = torch.multinomial(chance_BL.to(generator.device), count, generator=generator)
    return chosen_Bp.to(energy_BL.device)
