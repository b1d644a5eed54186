"""YOLOv5n with few bits, made in every way that `benchmarks.quantization` compares.

Axis letters: L layers, B bit widths.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.batchnorm import match_moments, measure_moments
from evaluators.bit_table import extrapolated, measure_damage
from evaluators.dataset import Dataset
from evaluators.dense import for_inference
from evaluators.detection import Accuracy, detect
from evaluators.distortion import Reference, distortion, reference
from evaluators.influence import measure_outputs
from evaluators.reconstruct import DenseOutputs, Method, reconstruct
from evaluators.training.validate import Validation
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.quantization import ActivationScales, calibrate_activations, quantize
from spaces.quantization.allocation import allocate, error_limit_bits, stored_bits
from spaces.quantization.asymmetric import asymmetric_roundings
from spaces.quantization.bias import correct_bias, mean_outputs
from spaces.quantization.calibrators import CALIBRATORS, weight_scales
from spaces.quantization.calibrators.lapq import POWERS, best_power, refine
from spaces.quantization.calibrators.power import least_power_clip
from spaces.quantization.codebook import codebook, codebook_size_bytes
from spaces.quantization.grid import integer_weights, largest_integer
from spaces.quantization.logarithmic import LogarithmicRounding
from spaces.quantization.power_of_two import power_of_two_scales, power_of_two_steps
from spaces.quantization.simulate import ActivationRounding, find_convolution, round_input

IMGSZ = 416
TABLE_IMAGES = 24
LAPQ_IMAGES = 8
LAPQ_EVALUATIONS = 40
MIXED_WIDTHS = (3, 4, 5, 6, 7, 8)

Bits = Mapping[str, tuple[int, int]]


@dataclass(eq=False)
class Bench:
    """The model, and what is measured on it once."""

    detector: Detector
    calibration_images: Tensor
    validation: Dataset
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        self.network = analyse(self.detector, IMGSZ)

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What the dense convolutions write."""
        return measure_outputs(self.detector.net, self.network, self.calibration_images)

    @cached_property
    def scales(self) -> ActivationScales:
        """Clips by evidence."""
        return calibrate_activations(self.detector, self.calibration_images)

    @cached_property
    def mse_scales(self) -> ActivationScales:
        """Clips of least squared error."""
        return calibrate_activations(self.detector, self.calibration_images, CALIBRATORS["mse"])

    @cached_property
    def zero_points(self) -> Mapping[str, ActivationRounding]:
        """Asymmetric grids of 8 bits."""
        return asymmetric_roundings(self.detector, self.calibration_images, 8)

    @cached_property
    def damage(self) -> np.ndarray:
        """What few bits of each layer alone cost."""
        images = self.calibration_images[:TABLE_IMAGES]
        return measure_damage(self.detector, self.network, images)

    @cached_property
    def dense_accuracy(self) -> Accuracy:
        """That of the dense network."""
        return self.measure(self.detector.net)

    def dense(self) -> nn.Module:
        """Return a copy of the dense network."""
        return copy.deepcopy(self.detector.net)

    def uniform(self, weight_bits: int, act_bits: int) -> Bits:
        """Give all layers the same bits."""
        return {layer.name: (weight_bits, act_bits) for layer in self.network.layers}

    def precise_boxes(self, bits: Bits) -> Bits:
        """Let the output layers of Detect read 16 bits."""
        outputs = f"model.{len(self.detector.net.model) - 1}."
        return {
            name: (weight_bits, 16 if name.startswith(outputs) else act_bits)
            for name, (weight_bits, act_bits) in bits.items()
        }

    def plain(self, bits: Bits) -> nn.Module:
        """Round to nearest with clips of least squared error, the published way."""
        net = self.dense()
        quantize(net, bits, self.mse_scales)
        return net

    def reconstructed(
        self, bits: Bits, method: Method | None = None, scales: ActivationScales | None = None
    ) -> nn.Module:
        """Fit and round layer by layer, with clips of least squared error if none are given."""
        net = self.dense()
        kept = np.ones(int(self.network.sizes.sum()) + 1, dtype=np.bool_)
        chosen = method or Method()
        scales = scales or self.mse_scales
        reconstruct(net, self.outputs, self.network, kept, bits, scales, method=chosen)
        return net

    def shape(self, layer: str) -> tuple[int, int]:
        """Return weights and output channels of a convolution."""
        weight = find_convolution(self.detector.net, layer).weight
        return weight.numel(), len(weight)

    def size(self, bits: Bits) -> float:
        """Return the size in % of float32."""
        layers = [layer.name for layer in self.network.layers]
        now = sum(stored_bits(*self.shape(name), bits[name][0]) for name in layers)
        return 100 * now / sum(stored_bits(*self.shape(name), 32) for name in layers)

    @cached_property
    def _scored(self) -> Validation:
        return Validation(self.validation, IMGSZ)

    def measure(self, net: nn.Module) -> Accuracy:
        """Score a network on the validation images."""
        return self._scored.measure(for_inference(copy.deepcopy(net)))


def with_zero_points(bench: Bench, bits: Bits) -> nn.Module:
    """Fit and round layer by layer, activations of 8 bits on asymmetric grids: what CPUs run."""
    rounded = {name: bench.zero_points[name] for name, (_, act) in bits.items() if act == 8}
    net = with_hooks(bench, bench.uniform(16, 16), rounded)
    weights = {name: (weight_bits, 16) for name, (weight_bits, _) in bits.items()}
    kept = np.ones(int(bench.network.sizes.sum()) + 1, dtype=np.bool_)
    reconstruct(net, bench.outputs, bench.network, kept, weights)
    return net


def by_evidence(bench: Bench, bits: Bits) -> nn.Module:
    """Fit and round layer by layer, the clips of activations chosen by evidence."""
    return bench.reconstructed(bits, scales=bench.scales)


def mixed_bits(bench: Bench, share: float) -> Bits:
    """Choose the widths of least total damage within a share of the float32 size."""
    names = [layer.name for layer in bench.network.layers]
    sizes_LB = np.array(
        [[stored_bits(*bench.shape(name), bits) for bits in MIXED_WIDTHS] for name in names], float
    )
    budget = share / 100 * sum(stored_bits(*bench.shape(name), 32) for name in names)
    damage_LB = extrapolated(bench.damage, MIXED_WIDTHS)
    chosen = allocate(damage_LB, sizes_LB, budget)
    return {name: (MIXED_WIDTHS[i], 8) for name, i in zip(names, chosen, strict=True)}


def error_limit(bench: Bench, share: float) -> Bits:
    """Choose widths by the smallest error limit that is within the size, activations at 8 bits."""
    names = [layer.name for layer in bench.network.layers]
    for limit in np.geomspace(0.01, 4.0, 200):
        widths = error_limit_bits(bench.mse_scales, float(limit))
        bits = {name: (widths[name], 8) for name in names}
        if bench.size(bits) <= share:
            return bits
    raise AssertionError(f"no limit is within {share} %")


def calibrated(bench: Bench, bits: Bits, calibrator: str) -> nn.Module:
    """Round to nearest with one calibrator."""
    images, method = bench.calibration_images, CALIBRATORS[calibrator]
    scales = calibrate_activations(bench.detector, images, method)
    net = with_steps(bench, bits, lambda w, b: weight_scales(w, b, method))
    quantize(net, {name: (16, act_bits) for name, (_, act_bits) in bits.items()}, scales)
    return net


def auto_clips(bench: Bench, bits: Bits) -> nn.Module:
    """Round to nearest, the clips of activations chosen by evidence."""
    net = bench.dense()
    quantize(net, bits, bench.scales)
    return net


def lapq(bench: Bench, bits: Bits) -> nn.Module:
    """Search the clips of all activations as LAPQ does, on the distortion of a few images."""
    images = bench.calibration_images[:LAPQ_IMAGES]
    with torch.inference_mode():
        output = for_inference(bench.dense())(images)
        dense = reference(output, detect(output))
    act_bits = next(iter(bits.values()))[1]

    def scales_of(power: float) -> ActivationScales:
        return calibrate_activations(
            bench.detector,
            images,
            lambda magnitudes, counts, b: least_power_clip(magnitudes, counts, b, power),
        )

    weights = bench.plain({name: (weight_bits, 16) for name, (weight_bits, _) in bits.items()})
    by_power = {power: scales_of(power) for power in POWERS}
    losses = [_loss(weights, bits, by_power[power], images, dense) for power in POWERS]
    start = scales_of(best_power(POWERS, losses))
    groups = list(start.clips)

    def with_clips(clips: np.ndarray) -> ActivationScales:
        changed = {
            group: {**start.clips[group], act_bits: float(clip)}
            for group, clip in zip(groups, clips, strict=True)
        }
        return ActivationScales(start.groups, changed)

    clips = refine(
        np.array([start.clips[group][act_bits] for group in groups]),
        lambda clips: _loss(weights, bits, with_clips(clips), images, dense),
        LAPQ_EVALUATIONS,
    )
    quantize(weights, {name: (16, act) for name, (_, act) in bits.items()}, with_clips(clips))
    return weights


def _loss(
    weights: nn.Module, bits: Bits, scales: ActivationScales, images: Tensor, dense: Reference
) -> float:
    net = copy.deepcopy(weights)
    quantize(net, {name: (16, act_bits) for name, (_, act_bits) in bits.items()}, scales)
    with torch.inference_mode():
        return distortion(for_inference(net)(images), dense)


def with_steps(bench: Bench, bits: Bits, steps_of: Callable[[Tensor, int], Tensor]) -> nn.Module:
    """Round weights to nearest with given steps."""
    net = bench.dense()
    for name, (weight_bits, _) in bits.items():
        weight = find_convolution(net, name).weight.data
        steps = steps_of(weight, weight_bits)
        weight.copy_(integer_weights(weight, steps, weight_bits) * steps.view(-1, 1, 1, 1))
    return net


def with_acts(bench: Bench, net: nn.Module) -> nn.Module:
    """Round the inputs of all layers to 8 bits."""
    quantize(net, bench.uniform(16, 8), bench.mse_scales)
    return net


def per_tensor(bench: Bench, bits: Bits) -> nn.Module:
    """Round weights with one step for all channels of a layer."""

    def one_step(weight: Tensor, width: int) -> Tensor:
        return weight_scales(weight.flatten()[None, :, None, None], width).expand(len(weight))

    return with_acts(bench, with_steps(bench, bits, one_step))


def shifts(bench: Bench, bits: Bits) -> nn.Module:
    """Round weights and activations with steps that are powers of two."""
    net = with_steps(bench, bits, lambda w, b: power_of_two_steps(weight_scales(w, b)))
    quantize(
        net,
        {name: (16, act_bits) for name, (_, act_bits) in bits.items()},
        power_of_two_scales(bench.mse_scales),
    )
    return net


def with_hooks(bench: Bench, bits: Bits, roundings: Mapping[str, ActivationRounding]) -> nn.Module:
    """Round weights plainly and inputs by other roundings; the image itself as ever."""
    net = bench.plain({name: (weight_bits, 16) for name, (weight_bits, _) in bits.items()})
    for name, rounding in roundings.items():
        round_input(find_convolution(net, name), rounding)
    return net


def asymmetric(bench: Bench, both: Bits, bits: int) -> nn.Module:
    """Round inputs to grids with a zero point."""
    images = bench.calibration_images
    return with_hooks(bench, both, asymmetric_roundings(bench.detector, images, bits))


def logarithmic(bench: Bench, both: Bits, bits: int) -> nn.Module:
    """Round inputs to powers of two, shifted by the minimum of SiLU; not the image."""
    names = [layer.name for layer in bench.network.layers][1:]
    clips = {name: bench.mse_scales.scale(name, 8) * largest_integer(8) for name in names}
    return with_hooks(bench, both, {name: LogarithmicRounding(clips[name], bits) for name in names})


def corrected(bench: Bench, bits: Bits) -> nn.Module:
    """Correct the means of all channels after plain rounding."""
    net, images = bench.plain(bits), bench.calibration_images
    correct_bias(net, images, mean_outputs(bench.detector.net, images))
    return net


def matched(bench: Bench, bits: Bits) -> nn.Module:
    """Match mean and variance of all channels after plain rounding."""
    net, images = bench.plain(bits), bench.calibration_images
    match_moments(net, images, measure_moments(bench.detector.net, images))
    return net


def codebooks(bench: Bench, bits: int) -> nn.Module:
    """Let the weights of each layer share 2^bits values."""
    net = bench.dense()
    for layer in bench.network.layers:
        conv = find_convolution(net, layer.name)
        conv.weight.data = codebook(conv.weight, bits)
    return with_acts(bench, net)


def codebook_share(bench: Bench, bits: int) -> float:
    """Return the size of a network of codebooks in % of float32."""
    shapes = [bench.shape(layer.name) for layer in bench.network.layers]
    now = sum(8 * codebook_size_bytes(weights, bits) + 32 * outputs for weights, outputs in shapes)
    return 100 * now / sum(stored_bits(*shape, 32) for shape in shapes)
