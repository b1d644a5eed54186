"""Activation clips from calibration images, in one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from spaces.model import Detector
from spaces.quantization.calibrators import CALIBRATORS, Calibrator
from spaces.quantization.grid import (
    QUANTIZED_BITS,
    ActivationScales,
    largest_integer,
    round_activations,
)
from spaces.quantization.patches import patches, sample_positions
from spaces.quantization.sharing import shared_inputs

BINS = 2048
BATCH = 8
SAMPLES_PER_BATCH = 200_000  # of one tensor: enough for a histogram; its peak is exact
EVIDENCE_IMAGES = 16
EVIDENCE_POSITIONS = 256  # of each convolution's output, over all of these images
TINY_VARIANCE = 1e-12

Clips = dict[int, dict[int, float]]
"""For each group the clip at each bit width."""


@dataclass(slots=True)
class Histogram:
    """Magnitudes seen so far, in `BINS` equal bins of 0..top; top doubles when it is exceeded."""

    top: float = 2.0**-10
    peak: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS))

    def observe(self, x: Tensor) -> None:
        """Count the magnitudes of a tensor of any shape."""
        magnitudes = x.detach().abs().flatten()
        self.peak = max(self.peak, float(magnitudes.max()))
        self.widen(self.peak)
        step = magnitudes.numel() // SAMPLES_PER_BATCH | 1  # odd: visits all columns of a map
        sample = magnitudes[::step]
        self.counts += torch.histc(sample, BINS, 0, self.top)

    def widen(self, top: float) -> None:
        """Double the range until it holds `top`; pairs of bins become one."""
        while self.top < top:
            self.top *= 2
            pairs = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat((pairs, torch.zeros(BINS // 2)))

    def magnitudes(self) -> Tensor:
        """Return what stands for each bin [BINS]: its centre, at most the peak."""
        return ((torch.arange(BINS) + 0.5) * (self.top / BINS)).clamp(max=self.peak)


@torch.no_grad()
def calibrate_activations(
    detector: Detector, images: Tensor, calibrator: Calibrator | None = None
) -> ActivationScales:
    """Choose the clips of all convolution inputs.

    Without a calibrator each group of tensors and bit width gets the clip, of those that all
    calibrators choose, with which the convolutions that read it err least.

    Args:
        detector: The dense detector.
        images: [N, 3, H, W] in 0..1, letterboxed as for evaluation.
        calibrator: How a clip is chosen from the magnitudes seen; by evidence if not given.

    Returns:
        One clip for each group of tensors that share a scale and each bit width.
    """
    net = detector.net
    inputs = shared_inputs(net)
    histograms = {inputs[name].group: Histogram() for name in inputs}
    handles = []
    observed: set[int] = set()
    for name, place in inputs.items():
        if place.tensor not in observed:  # several convolutions may read one tensor
            observed.add(place.tensor)
            hook = _observer(histograms[place.group])
            handles.append(net.get_submodule(name).register_forward_pre_hook(hook))
    try:
        for batch in images.split(BATCH):
            net(batch)
    finally:
        for handle in handles:
            handle.remove()
    groups = {name: place.group for name, place in inputs.items()}
    if calibrator is not None:
        return ActivationScales(groups, _clips(histograms, calibrator))
    tried = [_clips(histograms, each) for each in CALIBRATORS.values()]
    errors = _output_errors(net, images[:EVIDENCE_IMAGES], groups, tried)
    return ActivationScales(groups, _least(tried, errors))


def _observer(histogram: Histogram) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, args: histogram.observe(args[0])


def _clips(histograms: dict[int, Histogram], calibrator: Calibrator) -> Clips:
    magnitudes = torch.stack([histogram.magnitudes() for histogram in histograms.values()])
    counts = torch.stack([histogram.counts for histogram in histograms.values()])
    by_bits = {bits: calibrator(magnitudes, counts, bits).tolist() for bits in QUANTIZED_BITS}
    return {
        group: {bits: by_bits[bits][row] for bits in QUANTIZED_BITS}
        for row, group in enumerate(histograms)
    }


def _output_errors(
    net: nn.Module, images: Tensor, groups: Mapping[str, int], tried: Sequence[Clips]
) -> dict[int, Tensor]:
    """Measure what rounding the inputs of convolutions does to their outputs.

    Returns:
        For each group the squared error over the variance, summed over the convolutions that read
        it, for each of the clips tried (rows) and each bit width (columns).
    """
    errors = {group: torch.zeros(len(tried), len(QUANTIZED_BITS)) for group in tried[0]}

    def compare(name: str, conv: nn.Conv2d, y_NOHW: Tensor, x_NIHW: Tensor) -> None:
        if conv.groups > 1:
            return
        chosen = sample_positions(len(images), y_NOHW[0, 0].numel(), EVIDENCE_POSITIONS)
        x_PF, rows_FO = patches(conv, x_NIHW, chosen), conv.weight.flatten(1).T
        variance = (x_PF @ rows_FO).var(0).sum().clamp_min(TINY_VARIANCE)
        for column, bits in enumerate(QUANTIZED_BITS):
            for row, clips in enumerate(tried):
                step = clips[groups[name]][bits] / largest_integer(bits)
                error_PO = (round_activations(x_PF, step, bits) - x_PF) @ rows_FO
                # a bias can take back the mean
                errors[groups[name]][row, column] += error_PO.var(0).sum() / variance

    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda conv, args, y, name=name: compare(name, cast("nn.Conv2d", conv), y, args[0])
        )
        for name in groups
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return errors


def _least(tried: Sequence[Clips], errors: Mapping[int, Tensor]) -> Clips:
    """Return for each group and width the clip of least error, of equals the first."""
    return {
        group: {
            bits: tried[int(error.argmin(0)[column])][group][bits]
            for column, bits in enumerate(QUANTIZED_BITS)
        }
        for group, error in errors.items()
    }
