"""The convolutions that read prunable channels: their inputs' covariance, their outputs' influence.

What a channel is worth is what its readers cannot predict from the other channels. With x the
inputs of a convolution (all taps of its kernel), C their covariance, W its weights and h_o the
curvature of the detections by its output o, the loss of changing the weights by D is, to second
order,

    1/2 sum over o of h_o D_o C D_o^T

which takes gradients and inputs as independent (K-FAC: Martens and Grosse, arXiv 1503.05671). They
are not: curvature sits at a few places, those where something is seen. So half of the weight of C
lies where the curvature does, the other half everywhere alike.

Axis letters: B images, I input channels, O outputs, F features (inputs whose covariance is known),
L positions of a map, p sampled ones of an image, P = B * p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from hw_models.workload import ConvShape
from spaces.groups import FIXED, Network
from spaces.quantization.patches import patches
from spaces.saliency.objectives import random_projection
from spaces.saliency.watching import watch_gradients

FEWEST_POSITIONS = 4096  # samples of a layer's input over all images ...
POSITIONS_A_FEATURE = 2  # ... or so many for each of its features, if that is more
# Above it (3 x 3 on more than 128 channels) only covariances of channels are kept.
LARGEST_COVARIANCE = 1152
RIDGE = 0.05  # of the mean variance, as in the refit
TINY_VARIANCE = 1e-12  # keeps a layer of dead inputs solvable


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A convolution that reads prunable channels.

    Attributes:
        weight_RF: Its weights as rows over features: one row for each output, or for each output
            and tap where features are channels. Float32, like all tensors here.
        curvature_R: Curvature of the detections by each row's output, of one image.
        covariance_FF: Covariance of the features, without ridge.
        inverse_FF: Inverse of that covariance with its ridge.
        channels_F: The channel number of each feature.
    """

    weight_RF: Tensor
    curvature_R: Tensor
    covariance_FF: Tensor
    inverse_FF: Tensor
    channels_F: Tensor


def measure_readers(net: nn.Module, network: Network, images: Tensor) -> list[Reader]:
    """Measure all convolutions that read channels of a group.

    Args:
        net: The dense network, in evaluation mode; not changed.
        network: What `analyse` found in it.
        images: [N, 3, H, W] in 0..1.
    """
    reads = {
        step.name: torch.from_numpy(channels)
        for step, channels in zip(network.steps, network.reads, strict=True)
        if isinstance(step, ConvShape) and step.groups == 1 and (channels != FIXED).any()
    }
    sums = {name: _Sums(cast("nn.Conv2d", net.get_submodule(name)), len(images)) for name in reads}
    generator = torch.Generator().manual_seed(0)

    def record(name: str, x: Tensor, _output: Tensor, gradient: Tensor) -> None:
        sums[name].add(x, gradient, generator)

    watch_gradients(net, list(reads), images, random_projection(generator), record)
    return [sums[name].reader(channels_I) for name, channels_I in reads.items()]


class _Sums:
    """Sums over the sampled positions of one convolution: all alike, and weighted by curvature."""

    def __init__(self, conv: nn.Conv2d, images: int) -> None:
        self._conv = conv
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        self._whole_kernels = taps == 1 or conv.in_channels * taps <= LARGEST_COVARIANCE
        self._images = images
        features = conv.in_channels * (taps if self._whole_kernels else 1)
        self._weight_2 = torch.zeros(2, dtype=torch.float64)
        self._first_2F = torch.zeros(2, features, dtype=torch.float64)
        self._second_2FF = torch.zeros(2, features, features, dtype=torch.float64)
        self._curvature_O = torch.zeros(conv.out_channels, dtype=torch.float64)

    def add(self, x_BIHW: Tensor, gradient_BOhw: Tensor, generator: torch.Generator) -> None:
        """Add some positions of each image of a batch."""
        square_BOL = gradient_BOhw.square().flatten(2)
        self._curvature_O += square_BOL.double().sum((0, 2)) / self._images
        inputs, outputs = x_BIHW[0, 0].numel(), square_BOL.shape[2]
        positions = outputs if self._whole_kernels else inputs
        wanted = max(FEWEST_POSITIONS, POSITIONS_A_FEATURE * self._first_2F.shape[1])
        chosen_p = torch.randperm(positions, generator=generator)[: -(-wanted // self._images)]
        if self._whole_kernels:
            x_PF = patches(self._conv, x_BIHW, chosen_p.expand(len(x_BIHW), -1))
        else:
            x_PF = x_BIHW.flatten(2)[:, :, chosen_p].transpose(1, 2).flatten(0, 1)
        # Channels of a map that the convolution makes smaller have no curvature of their own.
        alike = positions != outputs
        energy_P = torch.ones(len(x_PF)) if alike else square_BOL.sum(1)[:, chosen_p].flatten()
        for which, weight_P in enumerate((torch.ones_like(energy_P), energy_P)):
            weighted_PF = weight_P[:, None] * x_PF
            self._weight_2[which] += weight_P.sum()
            self._first_2F[which] += weighted_PF.sum(0)
            self._second_2FF[which] += weighted_PF.T @ x_PF

    def reader(self, channels_I: Tensor) -> Reader:
        """Return what was measured, given the channel number of each input channel."""
        weight_2 = self._weight_2.clamp_min(TINY_VARIANCE)
        mean_F = (self._first_2F / weight_2[:, None]).mean(0)
        second_FF = (self._second_2FF / weight_2[:, None, None]).mean(0)
        covariance_FF = second_FF - torch.outer(mean_F, mean_F)
        variance_F = covariance_FF.diagonal().clamp_min(0)
        ridge = RIDGE * variance_F.mean() + TINY_VARIANCE
        weight_OIT = self._conv.weight.detach().flatten(2)
        taps = weight_OIT.shape[2]
        if self._whole_kernels:
            weight_RF, rows_each = weight_OIT.flatten(1), 1
        else:
            weight_RF, rows_each = weight_OIT.transpose(1, 2).flatten(0, 1), taps
        return Reader(
            # A feature that never changes is a bias: whatever its weight, nothing is lost with it.
            weight_RF=weight_RF * (variance_F > TINY_VARIANCE),
            curvature_R=self._curvature_O.float().repeat_interleave(rows_each),
            covariance_FF=covariance_FF.float(),
            inverse_FF=torch.linalg.inv(
                covariance_FF + ridge * torch.eye(len(mean_F), dtype=torch.float64)
            ).float(),
            channels_F=channels_I.repeat_interleave(len(mean_F) // len(channels_I)),
        )
