"""Grids, calibrators, shared scales and simulated networks."""

from __future__ import annotations

import copy
import json
import pickle
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hw_models.errors import InputError
from spaces.compress import compress
from spaces.groups import Network
from spaces.model import Detector
from spaces.quantization import ActivationScales, calibrate_activations, quantize
from spaces.quantization.calibrate import BINS, Histogram
from spaces.quantization.calibrators import (
    CALIBRATORS,
    Calibrator,
    minmax_clip,
    mse_clip,
    weight_scales,
)
from spaces.quantization.grid import (
    QUANTIZED_BITS,
    integer_weights,
    is_quantized,
    round_activations,
    weight_range,
)
from spaces.quantization.sharing import shared_inputs
from spaces.quantization.simulate import grid_signs
from spaces.saliency.ranking import rank
from spaces.space import SearchSpace, keep_levels

ALL_BITS = list(QUANTIZED_BITS)


def squared_error(x: Tensor, clips: Tensor, bits: int) -> Tensor:
    """Return the summed squared error of each row, by the definition."""
    step = (clips / (2 ** (bits - 1) - 1))[:, None]
    top = 2 ** (bits - 1) - 1
    return (x - (x / step).round().clamp(-top, top) * step).square().sum(1)


def heavy_tailed(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, columns, generator=generator)
    return normal * torch.rand(rows, columns, generator=generator).pow(-0.5)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth pictures: noise that is as bright as photographs are."""
    noise = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(noise, size=(192, 192), mode="bilinear")


@pytest.fixture(scope="module")
def u_scales(u_detector: Detector, images: Tensor) -> ActivationScales:
    return calibrate_activations(u_detector, images)


class TestGrid:
    def test_activations_by_hand(self) -> None:
        x = torch.tensor([-3.0, -2.0, -0.76, -0.74, 0.25, 0.75, 0.8, 1.4, 9.0])
        expected = torch.tensor([-2.0, -2.0, -1.0, -0.5, 0.0, 1.0, 1.0, 1.5, 1.5])  # -4 ... 3
        assert torch.equal(round_activations(x, 0.5, 3), expected)

    def test_weights_by_hand(self) -> None:
        weight = torch.tensor([[-9.0, 0.6, 1.2], [-0.09, 0.06, 0.2]]).view(2, 3, 1, 1)
        found = integer_weights(weight, torch.tensor([0.5, 0.1]), 3)
        assert found.flatten(1).tolist() == [[-4, 1, 2], [-1, 1, 2]]

    @pytest.mark.parametrize(("bits", "expected"), [(2, True), (8, True), (16, False), (32, False)])
    def test_which_widths_have_a_grid(self, bits: int, expected: bool) -> None:
        assert is_quantized(bits) is expected

    @pytest.mark.parametrize("bits", [-1, 0, 1, 9, 12, 15])
    def test_other_widths_are_refused(self, bits: int) -> None:
        with pytest.raises(InputError, match=f"{bits} bits: expected 2 to 8"):
            is_quantized(bits)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("calibrator", CALIBRATORS.values(), ids=CALIBRATORS)
class TestCalibratorConformance:
    """What `Calibrator` promises, for every one that is listed."""

    ones = torch.ones(1, 1)

    def test_clips_are_positive_and_within_the_range(
        self, calibrator: Calibrator, bits: int
    ) -> None:
        x = heavy_tailed(5, 400).abs()
        clips = calibrator(x, self.ones, bits)
        assert clips.shape == (5,)
        assert (clips > 0).all()
        assert (clips <= x.amax(1)).all()

    def test_a_row_of_zeros_has_clip_one(self, calibrator: Calibrator, bits: int) -> None:
        x = torch.stack([torch.zeros(50), torch.rand(50)])
        assert calibrator(x, self.ones, bits)[0] == 1

    def test_clips_scale_with_the_row(self, calibrator: Calibrator, bits: int) -> None:
        x = heavy_tailed(3, 300).abs()
        factors = torch.tensor([1.0, 8.0, 0.125])
        expected = calibrator(x, self.ones, bits) * factors
        torch.testing.assert_close(calibrator(x * factors[:, None], self.ones, bits), expected)

    def test_neither_order_nor_other_rows_matter(self, calibrator: Calibrator, bits: int) -> None:
        x = heavy_tailed(4, 300).abs()
        expected = calibrator(x, self.ones, bits)
        shuffled = x[:, torch.randperm(300, generator=torch.Generator().manual_seed(0))]
        torch.testing.assert_close(calibrator(shuffled, self.ones, bits), expected)
        torch.testing.assert_close(calibrator(x[2:3], self.ones, bits), expected[2:3])

    def test_a_count_is_a_repetition(self, calibrator: Calibrator, bits: int) -> None:
        x = heavy_tailed(2, 60).abs()
        counts = torch.arange(60).remainder(3).expand(2, -1).float()
        repeated = torch.stack([row.repeat_interleave(counts[0].long()) for row in x])
        expected = calibrator(repeated, self.ones, bits)
        torch.testing.assert_close(calibrator(x, counts, bits), expected)


class TestCalibrators:
    def test_minmax_by_hand(self) -> None:
        x = torch.tensor([[0.5, 2.0, 9.0], [1.0, 0.0, 0.0]])
        counts = torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
        assert minmax_clip(x, counts, 8).tolist() == [2.0, 1.0]

    def test_mse_by_hand(self) -> None:
        """At 2 bits the grid is -c, 0, c: many ones and one outlier of 4 want c near 1."""
        x = torch.cat([torch.ones(99), torch.tensor([4.0])])[None]
        # error(c) = 99 (1 - c)^2 + (4 - c)^2 is least at c = (99 + 4) / 100
        assert mse_clip(x, torch.ones(1, 1), 2).item() == pytest.approx(1.03, abs=0.02)

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_mse_is_as_good_as_an_exhaustive_search(self, bits: int) -> None:
        x = heavy_tailed(6, 500)
        ratios = torch.linspace(0.002, 1, 500)
        peaks = x.abs().amax(1)
        best = torch.stack([squared_error(x, peaks * ratio, bits) for ratio in ratios]).amin(0)
        found = squared_error(x, mse_clip(x.abs(), torch.ones(1, 1), bits), bits)
        assert (found <= best * 1.1).all()

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_mse_is_never_worse_than_minmax(self, bits: int) -> None:
        x = heavy_tailed(50, 40, seed=bits)
        ones = torch.ones(1, 1)
        mse = squared_error(x, mse_clip(x.abs(), ones, bits), bits)
        minmax = squared_error(x, minmax_clip(x.abs(), ones, bits), bits)
        assert (mse <= minmax * (1 + 1e-5)).all()

    def test_batchnorm_factors_commute_with_weight_rounding(self) -> None:
        """The integers of a folded weight are those of the weight, mirrored where it is."""
        weight = heavy_tailed(8, 54).view(8, 6, 3, 3)
        factors = torch.tensor([0.01, -0.3, 1.0, -7.0, 100.0, -1e-4, 2.0, -2.0]).view(-1, 1, 1, 1)
        for bits in (3, 8):
            mirrored = weight * factors.sign()
            expected = integer_weights(mirrored, weight_scales(mirrored, bits), bits)
            folded = weight * factors
            found = integer_weights(folded, weight_scales(folded, bits), bits)
            assert (found - expected).abs().mean() < 1e-3  # ties may fall to either side


class TestHistogram:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
    def test_counts_are_those_of_all_magnitudes(self, order: tuple[int, ...]) -> None:
        parts = [torch.linspace(0, 0.01, 500), torch.linspace(-3, 2, 700), torch.zeros(3)]
        histogram = Histogram()
        for index in order:
            histogram.observe(parts[index])
        assert (histogram.top, histogram.peak) == (4.0, 3.0)
        expected = torch.histc(torch.cat(parts).abs(), BINS, 0, 4.0)
        assert (histogram.counts - expected).abs().sum() <= 4  # rounding at the bins' edges
        assert histogram.counts.sum() == 1203

    def test_widening_adds_pairs(self) -> None:
        histogram = Histogram(top=1.0, peak=1.0, counts=torch.ones(BINS))
        histogram.widen(2.5)
        assert histogram.top == 4.0
        assert histogram.counts[: BINS // 4].tolist() == [4.0] * (BINS // 4)
        assert histogram.counts[BINS // 4 :].sum() == 0


class Joined(nn.Module):
    """Every way in which two tensors come to share a scale, and one in which they do not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(3, 4, 3, 2, 1), *self.pair(4, 4))
        self.after_add, self.after_cat, self.after_pool = (nn.Conv2d(c, 4, 1) for c in (4, 8, 4))
        self.after_resize, self.alone = self.pair(4, 4)

    @staticmethod
    def pair(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.Conv2d]:
        return nn.Conv2d(inputs, outputs, 1), nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(x), self.right(x)
        added = self.after_add(x + left)
        joined = self.after_cat(torch.cat([left, right], 1))
        pooled = self.after_pool(functional.max_pool2d(joined, 2))
        resized = functional.interpolate(pooled, scale_factor=2.0, mode="nearest")
        return self.alone(functional.silu(self.after_resize(resized))) + added


class TestSharing:
    def test_joins_by_hand(self) -> None:
        inputs = shared_inputs(Joined())
        groups: dict[int, set[str]] = {}
        for name, place in inputs.items():
            groups.setdefault(place.group, set()).add(name)
        assert sorted(map(sorted, groups.values())) == [
            ["after_add", "after_cat", "left", "right"],
            ["after_pool"],
            ["after_resize"],
            ["alone"],
            ["stem"],
        ]
        assert inputs["left"].tensor == inputs["right"].tensor
        assert inputs["left"].tensor != inputs["after_add"].tensor

    @pytest.mark.parametrize("kind", ["u", "classic"])
    def test_neck_and_shortcuts_of_yolov5(self, request: pytest.FixtureRequest, kind: str) -> None:
        detector = request.getfixturevalue(f"{kind}_detector")
        inputs = shared_inputs(detector.net)
        group = {name.removesuffix(".conv"): place.group for name, place in inputs.items()}
        assert group["model.4.m.0.cv1"] == group["model.4.m.1.cv1"] == group["model.4.cv3"]
        assert group["model.5"] == group["model.17.cv1"] == group["model.20.cv2"]
        assert group["model.7"] == group["model.13.cv1"] == group["model.23.cv1"]
        assert len({group[f"model.{i}"] for i in (0, 1, 3, 5, 7)}) == 5
        assert group["model.9.cv1"] != group["model.9.cv2"]
        assert len(inputs) == sum(isinstance(m, nn.Conv2d) for m in detector.net.modules())


class TestActivationScales:
    def test_json_round_trip(self, u_scales: ActivationScales) -> None:
        assert ActivationScales.from_dict(json.loads(json.dumps(u_scales.to_dict()))) == u_scales

    def test_a_scale_is_the_clip_over_the_largest_integer(self) -> None:
        scales = ActivationScales(groups={"a": 3}, clips={3: {8: 12.7, 4: 7.0}})
        assert scales.scale("a", 8) == pytest.approx(0.1)
        assert scales.scale("a", 4) == pytest.approx(1.0)

    def test_an_unknown_layer_is_an_input_error(self, u_scales: ActivationScales) -> None:
        with pytest.raises(InputError, match="other has no activation scale"):
            u_scales.scale("other", 8)

    def test_minmax_clips_are_the_largest_inputs_of_the_group(
        self, u_detector: Detector, images: Tensor
    ) -> None:
        scales = calibrate_activations(u_detector, images, minmax_clip)
        net = copy.deepcopy(u_detector.net)
        peaks: dict[int, float] = {}

        def note(group: int, x: Tensor) -> None:
            peaks[group] = max(peaks.get(group, 0.0), float(x.abs().max()))

        for name, group in scales.groups.items():
            net.get_submodule(name).register_forward_pre_hook(
                lambda _, args, group=group: note(group, args[0])
            )
        with torch.no_grad():
            net(images)
        assert {group: row[8] for group, row in scales.clips.items()} == pytest.approx(
            peaks, rel=2 / BINS
        )

    def test_calibration_leaves_the_network_as_it_was(
        self, u_detector: Detector, images: Tensor
    ) -> None:
        before = u_detector.digest
        calibrate_activations(u_detector, images[:1])
        assert u_detector.digest == before
        assert not any(module._forward_pre_hooks for module in u_detector.net.modules())


def all_layers(scales: ActivationScales, bits: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {name: bits for name in scales.groups if "dfl" not in name}


class TestQuantize:
    def test_sixteen_bits_change_nothing(
        self, u_detector: Detector, u_scales: ActivationScales, images: Tensor
    ) -> None:
        detector = copy.deepcopy(u_detector)
        quantize(detector.net, all_layers(u_scales, (16, 16)), u_scales)
        assert detector.digest == u_detector.digest
        with torch.no_grad():
            assert torch.equal(detector.net(images), u_detector.net(images))

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_each_output_channel_lies_on_a_grid(
        self, u_detector: Detector, u_scales: ActivationScales, bits: int
    ) -> None:
        net = copy.deepcopy(u_detector.net)
        quantize(net, {"model.3.conv": (bits, 16)}, u_scales)
        original = u_detector.net.model[3].conv.weight
        signs = grid_signs(net, "model.3.conv").view(-1, 1, 1, 1)
        steps = weight_scales(original * signs, bits)
        integers = net.model[3].conv.weight * signs / steps.view(-1, 1, 1, 1)
        torch.testing.assert_close(integers, integers.round())
        low, top = weight_range(bits)
        assert low - 1e-3 <= integers.min() <= integers.max() <= top + 1e-3
        untouched = [name for name in net.state_dict() if name != "model.3.conv.weight"]
        state = u_detector.net.state_dict()
        assert all(torch.equal(net.state_dict()[name], state[name]) for name in untouched)

    def test_the_input_of_a_layer_lies_on_its_grid(
        self, u_detector: Detector, u_scales: ActivationScales, images: Tensor
    ) -> None:
        net = copy.deepcopy(u_detector.net)
        quantize(net, {"model.3.conv": (16, 4)}, u_scales)
        seen: list[Tensor] = []
        net.model[3].conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            net(images)
        integers = seen[0] / u_scales.scale("model.3.conv", 4)
        torch.testing.assert_close(integers, integers.round())
        assert len(integers.round().unique()) <= 16
        assert torch.equal(net.model[3].conv.weight, u_detector.net.model[3].conv.weight)

    @pytest.mark.parametrize("what", ["weights", "activations"])
    def test_more_bits_distort_less(
        self, u_detector: Detector, u_scales: ActivationScales, images: Tensor, what: str
    ) -> None:
        dense = u_detector.net.model[:3](images)
        errors = []
        for width in (8, 6, 4, 2):
            net = copy.deepcopy(u_detector.net)
            pair = (width, 16) if what == "weights" else (16, width)
            quantize(net, all_layers(u_scales, pair), u_scales)
            errors.append(float((net.model[:3](images) - dense).square().mean()))
        assert all(2 * less < more for less, more in pairwise(errors))
        assert errors[0] < 5e-3 * float(dense.square().mean())

    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_rounding_weights_again_changes_nothing(
        self, u_detector: Detector, u_scales: ActivationScales, bits: int
    ) -> None:
        net = copy.deepcopy(u_detector.net)
        layers = {"model.3.conv": (bits, 16), "model.9.cv2.conv": (bits, 16)}
        quantize(net, layers, u_scales)
        once = {name: net.get_submodule(name).weight.clone() for name in layers}
        quantize(net, layers, u_scales)
        for name, weight in once.items():
            torch.testing.assert_close(net.get_submodule(name).weight.data, weight)

    def test_copies_and_pickles_compute_the_same(
        self, u_detector: Detector, u_scales: ActivationScales, images: Tensor
    ) -> None:
        detector = copy.deepcopy(u_detector)
        quantize(detector.net, all_layers(u_scales, (6, 6)), u_scales)
        copies = [copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))]  # noqa: S301
        with torch.no_grad():
            expected = detector.net(images[:1])
            assert not torch.equal(expected, u_detector.net(images[:1]))
            assert all(torch.equal(other.net(images[:1]), expected) for other in copies)

    def test_sliced_networks_take_the_dense_scales(
        self,
        u_detector: Detector,
        u_network: Network,
        u_scales: ActivationScales,
        images: Tensor,
    ) -> None:
        space = SearchSpace(u_network, [320], keep_levels(u_network))
        smallest = space.decode(space.upper)
        ranking = rank(u_detector, u_network)
        sliced = compress(u_detector, u_network, smallest, ranking)
        quantized = copy.deepcopy(sliced.net)
        quantize(quantized, all_layers(u_scales, (8, 8)), u_scales)
        with torch.no_grad():
            expected, found = sliced.net(images), quantized(images)
        assert not torch.equal(found, expected)
        assert (found[:, 4:] - expected[:, 4:]).abs().mean() < 0.1 * expected[:, 4:].mean()

    def test_weights_need_no_scales_but_activations_do(self, u_detector: Detector) -> None:
        net = copy.deepcopy(u_detector.net)
        quantize(net, {"model.0.conv": (8, 16)})
        with pytest.raises(InputError, match="no activation scales"):
            quantize(net, {"model.0.conv": (16, 8)})

    def test_a_name_that_is_no_convolution_is_refused(
        self, u_detector: Detector, u_scales: ActivationScales
    ) -> None:
        net = copy.deepcopy(u_detector.net)
        with pytest.raises(InputError, match=r"no convolution 'model\.0\.bn', got BatchNorm2d"):
            quantize(net, {"model.0.bn": (8, 8)}, u_scales)
