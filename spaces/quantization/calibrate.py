"""Activation clips from calibration images, in one pass over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spaces.model import Detector
from spaces.quantization.calibrators import Calibrator, mse_clip
from spaces.quantization.grid import QUANTIZED_BITS, ActivationScales
from spaces.quantization.sharing import shared_inputs

BINS = 2048
BATCH = 8
SAMPLES_PER_BATCH = 200_000  # of one tensor: enough for a histogram; its peak is exact


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
    detector: Detector, images: Tensor, calibrator: Calibrator = mse_clip
) -> ActivationScales:
    """Choose the clips of all convolution inputs.

    Args:
        detector: The dense detector.
        images: [N, 3, H, W] in 0..1, letterboxed as for evaluation.
        calibrator: How a clip is chosen from the magnitudes seen.

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
    return ActivationScales(
        groups={name: place.group for name, place in inputs.items()},
        clips=_clips(histograms, calibrator),
    )


def _observer(histogram: Histogram) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, args: histogram.observe(args[0])


def _clips(histograms: dict[int, Histogram], calibrator: Calibrator) -> dict[int, dict[int, float]]:
    magnitudes = torch.stack([histogram.magnitudes() for histogram in histograms.values()])
    counts = torch.stack([histogram.counts for histogram in histograms.values()])
    by_bits = {bits: calibrator(magnitudes, counts, bits).tolist() for bits in QUANTIZED_BITS}
    return {
        group: {bits: by_bits[bits][row] for bits in QUANTIZED_BITS}
        for row, group in enumerate(histograms)
    }
