"""Roundings: what all promise, and that GPTQ and OBS do what their papers say."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch import Tensor

from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import QUANTIZED_BITS, steps_on_grid, weight_range
from spaces.quantization.rounding import ROUNDINGS, Rounding, gptq, layer_error, nearest, obq
from spaces.quantization.rounding.auto import (
    auto,
    auto_below_8,
    candidate_grids,
    fixed,
    stretched,
)
from spaces.quantization.rounding.gptq import DAMPING, damped, inverse_factor

ALL_BITS = list(QUANTIZED_BITS)


def layer(outputs: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a weight [O, F] and the second moments of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing_FF = torch.randn(features, features, generator=generator)
    x_PF = torch.randn(20 * features, features, generator=generator) @ mixing_FF
    return torch.randn(outputs, features, generator=generator), x_PF.T @ x_PF / len(x_PF)


def steps_of(weight_OF: Tensor, bits: int) -> Tensor:
    return weight_scales(weight_OF[:, :, None, None], bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=ROUNDINGS)
class TestRoundingConformance:
    """What `Rounding` promises, for every one that is listed."""

    def test_results_are_on_a_grid_of_the_width(self, rounding: Rounding, bits: int) -> None:
        weight, hessian = layer(6, 30)
        rounded = rounding(weight, hessian, steps_of(weight, bits), bits)
        zero = (rounded == 0).all(1)
        assert ((steps_on_grid(rounded, bits) > 0) | zero).all()

    def test_the_shape_is_kept_and_the_weight_unchanged(
        self, rounding: Rounding, bits: int
    ) -> None:
        weight, hessian = layer(4, 18)
        kernel = weight.view(4, 2, 3, 3)
        before = kernel.clone()
        rounded = rounding(kernel, hessian, steps_of(weight, bits), bits)
        assert rounded.shape == kernel.shape
        assert rounded.dtype == torch.float32
        assert torch.equal(kernel, before)

    def test_a_weight_on_the_grid_stays(self, rounding: Rounding, bits: int) -> None:
        weight, hessian = layer(5, 20)
        steps = steps_of(weight, bits)
        on_grid = nearest(weight, hessian, steps, bits)
        torch.testing.assert_close(rounding(on_grid, hessian, steps, bits), on_grid)

    def test_rows_do_not_depend_on_each_other(self, rounding: Rounding, bits: int) -> None:
        weight, hessian = layer(5, 20)
        steps = steps_of(weight, bits)
        together = rounding(weight, hessian, steps, bits)
        alone = rounding(weight[2:3], hessian, steps[2:3], bits)
        assert layer_error(together[2:3], alone, hessian) <= 1e-3 * layer_error(
            weight[2:3], alone, hessian
        )

    def test_it_is_no_worse_than_nearest(self, rounding: Rounding, bits: int) -> None:
        weight, hessian = layer(8, 40)
        steps = steps_of(weight, bits)
        of_nearest = layer_error(weight, nearest(weight, hessian, steps, bits), hessian).sum()
        found = layer_error(weight, rounding(weight, hessian, steps, bits), hessian).sum()
        assert found <= of_nearest * 1.0001

    def test_zeros_stay_zeros(self, rounding: Rounding, bits: int) -> None:
        weight, hessian = layer(5, 24)
        weight[:, 1::3] = 0  # pruned
        rounded = rounding(weight, hessian, steps_of(weight, bits), bits)
        assert (rounded[:, 1::3] == 0).all()

    def test_dead_features_are_no_trouble(self, rounding: Rounding, bits: int) -> None:
        weight, _ = layer(3, 10)
        rounded = rounding(weight, torch.zeros(10, 10), steps_of(weight, bits), bits)
        assert rounded.isfinite().all()


def brute_force(weight_F: Tensor, hessian_FF: Tensor, step: float) -> float:
    """Return the least error of all roundings to -1, 0, 1 steps."""
    grid = itertools.product([-step, 0.0, step], repeat=len(weight_F))
    candidates = torch.tensor(list(grid))
    return float(layer_error(weight_F[None], candidates, hessian_FF).amin())


class TestGptq:
    def test_nearly_as_good_as_all_roundings_tried(self) -> None:
        """Six weights at 2 bits: 729 roundings a row."""
        errors = {"gptq": 0.0, "nearest": 0.0, "best": 0.0}
        for seed in range(20):
            weight, hessian = layer(1, 6, seed)
            steps = steps_of(weight, 2)
            for name in ("gptq", "nearest"):
                rounded = ROUNDINGS[name](weight, hessian, steps, 2)
                errors[name] += float(layer_error(weight, rounded, hessian))
            errors["best"] += brute_force(weight[0], hessian, float(steps[0]))
        assert errors["best"] <= errors["gptq"]
        # greedy, but far nearer to the optimum than rounding to nearest
        gap = errors["nearest"] - errors["best"]
        assert errors["gptq"] - errors["best"] < 0.7 * gap

    def test_without_correlation_it_is_rounding_to_nearest(self) -> None:
        weight, _ = layer(4, 12)
        steps = steps_of(weight, 4)
        diagonal = torch.diag(torch.rand(12, generator=torch.Generator().manual_seed(1)) + 0.1)
        assert torch.equal(gptq(weight, diagonal, steps, 4), nearest(weight, diagonal, steps, 4))

    def test_the_factor_is_that_of_the_inverse(self) -> None:
        _, hessian = layer(1, 25)
        factor = inverse_factor(hessian)
        damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(25)
        assert torch.equal(factor, factor.triu())
        torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(25), atol=1e-4, rtol=0)

    def test_blocks_make_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weight, hessian = layer(6, 50)
        steps = steps_of(weight, 4)
        whole = gptq(weight, hessian, steps, 4)
        module = importlib.import_module("spaces.quantization.rounding.gptq")
        monkeypatch.setattr(module, "BLOCK", 7)
        in_blocks = gptq(weight, hessian, steps, 4)
        error = float(layer_error(weight, whole, hessian).sum())
        assert float(layer_error(weight, in_blocks, hessian).sum()) == pytest.approx(
            error, rel=0.05
        )


class TestObq:
    def test_one_block_follows_the_paper(self) -> None:
        """Against the loop of the paper with a real inverse after every weight."""
        weight, hessian = layer(1, 7, seed=3)
        steps, top = steps_of(weight, 3), 3
        free, row = list(range(7)), weight[0].double().clone()
        full = damped(hessian).double()
        while free:
            inverse = torch.linalg.inv(full[free][:, free])
            rounded = (row[free] / steps[0]).round().clamp(-top, top) * steps[0]
            error = row[free] - rounded
            cost = error.square() / inverse.diagonal()
            cost[error.abs() > steps[0] / 2 * 1.001] = -1
            place = int(cost.argmin())
            row[free] -= inverse[:, place] * error[place] / inverse[place, place]
            row[free[place]] = rounded[place]
            del free[place]
        found = obq(weight, hessian, steps, 3)[0]
        torch.testing.assert_close(found, row.float(), rtol=1e-4, atol=1e-5)

    def test_blocks_cost_little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weight, hessian = layer(8, 60)
        steps = steps_of(weight, 3)
        whole = layer_error(weight, obq(weight, hessian, steps, 3), hessian).sum()
        monkeypatch.setattr(importlib.import_module("spaces.quantization.rounding.obq"), "BLOCK", 9)
        in_blocks = layer_error(weight, obq(weight, hessian, steps, 3), hessian).sum()
        assert float(in_blocks) < 1.5 * float(whole)


class TestAuto:
    @pytest.mark.parametrize("bits", [3, 4, 8])
    def test_no_row_is_worse_than_with_gptq_on_any_calibrated_grid(self, bits: int) -> None:
        weight, hessian = layer(10, 40)
        found = layer_error(weight, auto(weight, hessian, bits), damped(hessian))
        for grid in candidate_grids(weight, bits):
            other = layer_error(weight, gptq(weight, hessian, grid, bits), damped(hessian))
            assert (found <= 1.001 * other).all()

    @pytest.mark.parametrize("bits", [2, 4])
    def test_the_best_step_for_the_integers_of_a_row(self, bits: int) -> None:
        weight, hessian = layer(10, 40)
        steps = 1.3 * steps_of(weight, bits)
        before = gptq(weight, hessian, steps, bits)
        before[0] = 0.0
        after, better = stretched(weight, before, hessian, steps)
        assert torch.allclose(after / better[:, None], before / steps[:, None], atol=1e-4)
        costs = [layer_error(weight, after * gain, damped(hessian)) for gain in (1.0, 0.99, 1.01)]
        assert (costs[0][1:] < torch.minimum(costs[1], costs[2])[1:]).all()
        assert torch.equal(after[0], before[0])

    def test_only_8_bits_are_rounded_to_nearest_to_save_time(self) -> None:
        weight, hessian = layer(10, 40)
        expected = nearest(weight, hessian, weight_scales(weight, 8), 8)
        assert torch.equal(auto_below_8(weight, hessian, 8), expected)
        assert torch.equal(auto_below_8(weight, hessian, 7), auto(weight, hessian, 7))

    def test_a_fixed_choice_is_that_method(self) -> None:
        weight, hessian = layer(4, 20)
        expected = gptq(weight, hessian, steps_of(weight, 4), 4)
        assert torch.equal(fixed("mse", gptq)(weight, hessian, 4), expected)


@pytest.mark.parametrize("bits", ALL_BITS)
class TestGridOfRoundedWeights:
    def test_it_is_found_again_when_the_largest_integer_is_not_used(self, bits: int) -> None:
        top = 2 ** (bits - 1) - 1
        generator = torch.Generator().manual_seed(bits)
        integers = torch.randint(-top, top + 1, (20, 90), generator=generator)
        integers[::2] = (integers[::2] * 0.7).to(torch.int64)
        steps = torch.rand(20, generator=generator) + 0.01
        weight = (integers * steps[:, None]).view(20, 10, 3, 3)
        again = nearest(weight, torch.eye(90), weight_scales(weight, bits), bits)
        torch.testing.assert_close(again, weight, rtol=1e-5, atol=0)

    def test_it_is_found_again_with_the_smallest_integer(self, bits: int) -> None:
        low, top = weight_range(bits)
        integers = torch.randint(low, top + 1, (20, 90), generator=torch.Generator().manual_seed(1))
        integers[:, 7] = low
        steps = torch.linspace(0.01, 1.0, 20)
        weight = integers * steps[:, None]
        torch.testing.assert_close(steps_on_grid(weight, bits), steps)
        if -low > top:  # mirrored, it is on no grid of these bits
            ends = integers.clone()
            ends[:, 3] = top - 1
            ends[:, 4] = top
            assert not (steps_on_grid(-ends * steps[:, None], bits) == steps).any()

    def test_weights_never_rounded_have_none(self, bits: int) -> None:
        weight, _ = layer(200, 36)
        assert not steps_on_grid(weight, bits).any()
        assert not steps_on_grid(torch.zeros(3, 36), bits).any()
