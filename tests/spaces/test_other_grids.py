"""Grids beside the symmetric one, corrections, and how bits are handed out."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from ultralytics.nn.modules import Conv

from hw_models.errors import InfeasibleError, InputError
from spaces.model import Detector
from spaces.quantization import ActivationScales, calibrate_activations, quantize
from spaces.quantization.allocation import allocate, error_limit_bits, stored_bits
from spaces.quantization.asymmetric import AsymmetricRounding, asymmetric_roundings
from spaces.quantization.bias import correct_bias, mean_outputs
from spaces.quantization.calibrators import mse_clip, weight_scales
from spaces.quantization.calibrators.lapq import best_power, refine
from spaces.quantization.codebook import codebook, codebook_size_bytes
from spaces.quantization.dynamic import DynamicRounding
from spaces.quantization.equalization import can_equalize, equalize
from spaces.quantization.grid import integer_weights, largest_integer, round_activations
from spaces.quantization.logarithmic import SILU_SHIFT, LogarithmicRounding
from spaces.quantization.power_of_two import power_of_two_scales, power_of_two_steps
from spaces.quantization.simulate import ActivationRounding, InputRounding, round_input

ROUNDINGS: list[ActivationRounding] = [
    InputRounding(0.15, 6),
    AsymmetricRounding(-0.25, 3.0, 6),
    DynamicRounding(6),
    LogarithmicRounding(3.0, 6),
]


def activations(seed: int = 0) -> Tensor:
    """What a SiLU writes."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return functional.silu(2 * x)


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=lambda r: type(r).__name__)
class TestActivationRoundingConformance:
    """What `ActivationRounding` promises, for every kind."""

    def test_few_values_near_the_right_ones(self, rounding: ActivationRounding) -> None:
        x = activations()
        before = x.clone()
        rounded = rounding.rounded(x)
        assert torch.equal(x, before)
        assert len(set(rounded[0].flatten().tolist())) <= 2**6
        assert (rounded - x).square().mean() < 0.15 * x.var()

    def test_rounding_again_changes_nothing(self, rounding: ActivationRounding) -> None:
        once = rounding.rounded(activations())
        torch.testing.assert_close(rounding.rounded(once), once, atol=1e-6, rtol=1e-5)

    def test_copies_and_pickles_round_the_same(self, rounding: ActivationRounding) -> None:
        conv = nn.Conv2d(3, 4, 3)
        round_input(conv, rounding)
        x = activations()
        for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):  # noqa: S301
            assert torch.equal(other(x), conv(x))

    def test_the_last_rounding_is_the_only_one(self, rounding: ActivationRounding) -> None:
        conv = nn.Conv2d(3, 4, 3)
        round_input(conv, InputRounding(1.0, 2))
        round_input(conv, rounding)
        x = activations()
        assert torch.equal(conv(x), functional.conv2d(rounding.rounded(x), conv.weight, conv.bias))


@given(
    bits=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    seed=st.integers(0, 1000),
    stride=st.integers(1, 2),
)
def test_integer_arithmetic_equals_the_simulation(
    bits: tuple[int, int], seed: int, stride: int
) -> None:
    """int8 times int8 summed in int32 and scaled once, against what `quantize` computes."""
    weight_bits, act_bits = bits
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(6, 5, 3, stride, padding=1)
    nn.init.normal_(conv.weight, generator=generator)
    x = torch.randn(2, 6, 7, 7, generator=generator)
    clip = float(x.abs().max()) * 0.8
    scales = ActivationScales({"0": 0}, {0: {act_bits: clip}})
    net = nn.Sequential(conv)
    steps = weight_scales(conv.weight, weight_bits)
    weights_int = integer_weights(conv.weight.detach(), steps, weight_bits).to(torch.int32)
    step = clip / largest_integer(act_bits)
    top = largest_integer(act_bits)
    x_int = (x / step).round().clamp(-top - 1, top).to(torch.int32)
    columns = functional.unfold(x_int.double(), 3, padding=1, stride=stride).to(torch.int32)
    sums = (weights_int.flatten(1)[None, :, :, None] * columns[:, None]).sum(2, dtype=torch.int32)
    assert conv.bias is not None
    expected = sums.float() * (steps * step)[None, :, None] + conv.bias.detach()[None, :, None]
    quantize(net, {"0": bits}, scales)
    with torch.no_grad():
        found = net(x).flatten(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class TestAsymmetric:
    def test_by_hand(self) -> None:
        rounding = AsymmetricRounding(-1.0, 2.0, 2)  # -1, 0, 1, 2
        x = torch.tensor([-3.0, -0.6, -0.4, 0.0, 1.4, 9.0])
        assert rounding.rounded(x).tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 2.0]

    def test_zero_is_exact(self) -> None:
        assert AsymmetricRounding(-0.27, 5.1, 5).rounded(torch.zeros(1)).item() == 0
        assert AsymmetricRounding(0.5, 5.1, 5).rounded(torch.zeros(1)).item() == 0

    def test_it_is_better_than_symmetric_after_silu(self, u_detector: Detector) -> None:
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        scales = calibrate_activations(u_detector, images)
        found = asymmetric_roundings(u_detector, images, 5)
        assert found.keys() == scales.groups.keys()
        errors = {"symmetric": 0.0, "asymmetric": 0.0}

        def compare(name: str, x: Tensor) -> None:
            symmetric = round_activations(x, scales.scale(name, 5), 5)
            errors["symmetric"] += float((symmetric - x).square().mean())
            errors["asymmetric"] += float((found[name].rounded(x) - x).square().mean())

        names = [name for name in scales.groups if ".m." in name]
        for name in names:
            conv = u_detector.net.get_submodule(name)
            handle = conv.register_forward_pre_hook(lambda _, a, name=name: compare(name, a[0]))
            with torch.no_grad():
                u_detector.net(images)
            handle.remove()
        assert errors["asymmetric"] < 0.7 * errors["symmetric"]

    def test_its_clips_suit_its_finer_steps(self, u_detector: Detector) -> None:
        """At the clips of a symmetric grid of as many bits more is lost by saturation."""
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        scales = calibrate_activations(u_detector, images, mse_clip)
        found = asymmetric_roundings(u_detector, images, 8)
        errors = {"tight": 0.0, "suited": 0.0}

        def compare(name: str, x: Tensor) -> None:
            clip = scales.clips[scales.groups[name]][8]
            tight = replace(found[name], high=min(found[name].high, clip))
            errors["tight"] += float((tight.rounded(x) - x).square().sum())
            errors["suited"] += float((found[name].rounded(x) - x).square().sum())

        handles = [
            u_detector.net.get_submodule(name).register_forward_pre_hook(
                lambda _, a, name=name: compare(name, a[0])
            )
            for name in found
        ]
        with torch.no_grad():
            u_detector.net(images)
        for handle in handles:
            handle.remove()
        assert errors["suited"] < errors["tight"]


def test_dynamic_ranges_are_those_of_each_image() -> None:
    x = torch.stack([torch.tensor([[[0.5, 3.0]]]), torch.tensor([[[0.1, -0.3]]])])
    rounded = DynamicRounding(3).rounded(x)  # -3 ... 3
    torch.testing.assert_close(
        rounded, torch.stack([torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[0.1, -0.3]]])])
    )


def test_logarithmic_by_hand() -> None:
    rounding = LogarithmicRounding(4.0, 2, shift=0.0)  # 4, 2, 1, 0.5
    x = torch.tensor([9.0, 4.0, 2.9, 2.7, 0.1, 0.0])
    assert rounding.rounded(x).tolist() == [4.0, 4.0, 4.0, 2.0, 0.5, 0.5]
    lowest = LogarithmicRounding(4.0, 8).rounded(torch.tensor([-SILU_SHIFT]))
    assert lowest.item() == pytest.approx(-SILU_SHIFT, abs=1e-5)


def test_steps_become_powers_of_two() -> None:
    steps = torch.tensor([0.25, 0.26, 0.5, 3.0, 1e-3])
    assert power_of_two_steps(steps).tolist() == [0.25, 0.5, 0.5, 4.0, 2.0**-9]
    scales = power_of_two_scales(ActivationScales({"a": 0}, {0: {4: 7 * 0.3, 8: 127 * 0.5}}))
    assert scales.scale("a", 4) == pytest.approx(0.5)
    assert scales.scale("a", 8) == pytest.approx(0.5)


class TestCodebook:
    @pytest.mark.parametrize("bits", [2, 4, 6])
    def test_few_values_and_better_than_a_grid(self, bits: int) -> None:
        weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        found = codebook(weight, bits)
        assert found.shape == weight.shape
        assert len(set(found.flatten().tolist())) <= 2**bits
        step = weight_scales(weight.flatten()[None, :, None, None], bits)
        grid = integer_weights(weight.view(1, -1, 1, 1), step, bits).view_as(weight) * step
        assert (found - weight).square().sum() < (grid - weight).square().sum()

    def test_few_different_weights_stay(self) -> None:
        weight = torch.tensor([-1.0, 0.5, 0.5, 2.0]).view(2, 2, 1, 1)
        torch.testing.assert_close(codebook(weight, 4), weight)

    def test_size_counts_the_values(self) -> None:
        assert codebook_size_bytes(1000, 4) == 1000 * 4 / 8 + 16 * 2


def pair(activation: nn.Module) -> tuple[nn.Module, Conv, nn.Conv2d]:
    """A convolution with very unequal channels, its activation, and another convolution."""
    writer, reader = Conv(3, 8, 3), nn.Conv2d(8, 4, 1)
    writer.act = activation
    nn.init.normal_(writer.bn.bias)
    with torch.no_grad():
        writer.bn.weight.copy_(torch.logspace(-2, 1, 8))
    return nn.Sequential(writer, reader).eval().requires_grad_(False), writer, reader


class TestEqualization:
    @pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.ReLU(), nn.Identity()])
    def test_outputs_stay_and_ranges_become_equal(self, activation: nn.Module) -> None:
        net, writer, reader = pair(activation)
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        expected = net(x)
        equalize(net, [("0.conv", "1")])
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
        gain = writer.bn.weight.abs() / (writer.bn.running_var + writer.bn.eps).sqrt()
        written = writer.conv.weight.abs().amax((1, 2, 3)) * gain
        torch.testing.assert_close(written, reader.weight.abs().amax((0, 2, 3)))

    def test_silu_is_refused(self) -> None:
        assert not can_equalize(nn.SiLU())
        with pytest.raises(InputError, match="got SiLU"):
            equalize(pair(nn.SiLU())[0], [("0.conv", "1")])


def test_bias_correction_gives_every_channel_its_mean(u_detector: Detector) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    means = mean_outputs(u_detector.net, images)
    net = copy.deepcopy(u_detector.net)
    quantize(net, {name: (4, 16) for name in means if "dfl" not in name})
    correct_bias(net, images, means)
    for name, mean in mean_outputs(net, images).items():
        torch.testing.assert_close(mean, means[name], rtol=1e-3, atol=1e-3)


class TestAllocation:
    @given(seed=st.integers(0, 10_000))
    def test_as_good_as_all_choices_tried(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        damage, size = rng.random((4, 3)), rng.random((4, 3))
        budget = float(rng.uniform(size.min(1).sum(), size.max(1).sum()))
        chosen = allocate(damage, size, budget)
        rows = np.arange(4)
        assert size[rows, chosen].sum() <= budget + 1e-6
        best = min(
            damage[rows, list(choice)].sum()
            for choice in itertools.product(range(3), repeat=4)
            if size[rows, list(choice)].sum() <= budget
        )
        assert damage[rows, chosen].sum() == pytest.approx(best, rel=1e-3)

    def test_what_cannot_fit_is_refused(self) -> None:
        with pytest.raises(InfeasibleError, match="the fewest bits everywhere"):
            allocate(np.ones((2, 2)), np.array([[2.0, 3.0], [2.0, 3.0]]), 3.9)

    def test_error_limit_by_hand(self) -> None:
        clips = {0: {bits: 7.0 for bits in range(2, 9)}, 1: {bits: 0.71 for bits in range(2, 9)}}
        scales = ActivationScales({"a": 0, "b": 1}, clips)
        # steps 7/127 = .055, 7/63 = .11; and .71/7 is the first not below .1
        assert error_limit_bits(scales, 0.1) == {"a": 7, "b": 4}

    def test_scales_and_biases_are_counted(self) -> None:
        assert stored_bits(weights=100, outputs=3, bits=4) == 400 + 3 * 64
        assert stored_bits(weights=100, outputs=3, bits=32) == 3200 + 3 * 32


class TestLapq:
    def test_the_lowest_point_of_the_parabola(self) -> None:
        powers = (2.0, 2.5, 3.0, 4.0)
        losses = [(power - 2.7) ** 2 + 1 for power in powers]
        assert best_power(powers, losses) == pytest.approx(2.7)

    def test_without_one_the_best_measured(self) -> None:
        assert best_power((2.0, 3.0, 4.0), (1.0, 2.0, 2.5)) == 2.0

    def test_refining_never_makes_it_worse(self) -> None:
        target = np.array([1.2, 0.9])

        def loss(clips: np.ndarray) -> float:
            return float(np.square(np.log(clips / target)).sum())

        start = np.ones(2)
        found = refine(start, loss, 60)
        assert loss(found) < 0.1 * loss(start)
        assert loss(refine(start, loss, 1)) <= loss(start)
