from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hw_models.cost import CostModel
from hw_models.device import (
    Coefficients,
    DeviceProfile,
    EnergyCoefficients,
    Interval,
    PatternGain,
    PowerMode,
    load_profile,
)
from hw_models.errors import InputError
from hw_models.networks import at_precision, measured_network
from hw_models.workload import (
    DEPTHWISE,
    PATTERNS,
    ConvShape,
    OtherOp,
    Workload,
    WorkloadBatch,
    conversion,
)

TRAFFIC = {
    "pool": 1.0, "resize": 1.0, "concat": 0.5, "copy": 1.0, "add": 0.5, "activation": 0.5,
    "softmax": 1.0, "decode": 1.0, "unknown": 1.0,
}  # fmt: skip


def toy(**changes: object) -> DeviceProfile:
    """A device of round numbers: 1 GMAC/s, 1 GB/s, no launch cost, unless changed."""
    numbers = Coefficients(
        launch_us=0.0, op_launch_us=0.0, depth_ns=0.0, dense_gmacs=1.0, winograd_gain=1.0,
        pointwise_gmacs=1.0, matrix_gmacs=1.0, depthwise_gmacs=0.5, tile_channels=0.0,
        bandwidth_gbs=1.0, channel_step=8, pixel_step=1, map_step=1,
    )  # fmt: skip
    energy = EnergyCoefficients("toy", {16: 10.0, 32: 20.0}, 100.0, 1.0, 1.0, 5.0, 0.0, 1.0, 4.0)
    profile = DeviceProfile(
        name="toy", description="", default_power_mode="FULL", reference_mode="FULL",
        power_modes={"FULL": PowerMode(1000, 1000, 1000, 2.0), "HALF": PowerMode(500, 250, 500, 1)},
        baseline_bits=16, granule=8,
        patterns={p: "executed" if p in {"dense", "3ep"} else "illegal" for p in PATTERNS},
        pattern_gains={"3ep": PatternGain(2.0, 0.5, "toy")},
        coefficients={16: numbers, 32: replace(numbers, dense_gmacs=0.5)},
        plugins=("mish",), traffic=TRAFFIC, fixed_us=0.0, energy=energy,
        intervals={b: Interval(0.1, b == 16, (0.001, 1.0)) for b in (16, 32)},
    )  # fmt: skip
    return replace(profile, **changes)  # type: ignore[arg-type]


CONV = ConvShape("c", 8, 16, (3, 3), (1, 1), 1, 10, 10)
CONV_MACS = 100 * 16 * 8 * 9
CONV_BYTES = 2 * (100 * (8 + 16) + 16 * 8 * 9)


def only(layer: ConvShape | OtherOp, batch: int = 1) -> Workload:
    return Workload((layer,), batch, (8, 10, 10))


def latency_us(
    profile: DeviceProfile, layer: ConvShape | OtherOp, mode: str | None = None
) -> float:
    return CostModel(profile, mode).predict(only(layer)).latency_ms * 1e3


def test_a_convolution_costs_compute_and_memory_in_quadrature() -> None:
    expected = math.hypot(CONV_MACS / 1e3, CONV_BYTES / 1e3)
    assert latency_us(toy(), CONV) == pytest.approx(expected, rel=1e-5)


def test_fp32_doubles_bytes_and_halves_the_rate() -> None:
    expected = math.hypot(2 * CONV_MACS / 1e3, 2 * CONV_BYTES / 1e3)
    layer = replace(CONV, weight_bits=32, act_bits=32)
    assert latency_us(toy(), layer) == pytest.approx(expected, rel=1e-5)


def test_compute_follows_the_gpu_clock_and_memory_the_memory_clock() -> None:
    expected = math.hypot(2 * CONV_MACS / 1e3, 4 * CONV_BYTES / 1e3)
    assert latency_us(toy(), CONV, "HALF") == pytest.approx(expected, rel=1e-5)
    assert latency_us(toy(), CONV, "500@250") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"winograd_gain": 2.0}, 0.5),
        ({"tile_channels": 16.0}, 2.0),
        ({"channel_step": 32}, 4 * 2),  # 8 inputs and 16 outputs are padded to 32
        ({"pixel_step": 64}, 1.28),  # 100 pixels to 128
        ({"map_step": 8}, 2.56),  # 10 x 10 to 16 x 16
    ],
)
def test_shape_terms_scale_the_compute_time(change: dict[str, float], factor: float) -> None:
    profile = toy()
    numbers = replace(profile.coefficients[16], bandwidth_gbs=1e9, **change)  # type: ignore[arg-type]
    changed = replace(profile, coefficients={16: numbers})
    changed = replace(changed, intervals={16: profile.intervals[16]})
    assert latency_us(changed, CONV) == pytest.approx(factor * CONV_MACS / 1e3, rel=1e-5)


def test_siblings_share_launch_and_depth() -> None:
    profile = toy()
    numbers = replace(profile.coefficients[16], launch_us=40.0, depth_ns=1000.0)
    slow = replace(profile, coefficients={16: numbers}, intervals={16: profile.intervals[16]})
    alone, shared = latency_us(slow, CONV), latency_us(slow, replace(CONV, siblings=2))
    # half the launch, half of 72 steps of 1 us, and half the input's bytes
    assert alone - shared > 20 + 36 - 1e-3


def test_depthwise_layers_follow_their_channels() -> None:
    layer = replace(CONV, in_channels=16, groups=16)
    macs, moved = 100 * 16 * 9, 2 * (100 * 32 + 16 * 9)
    expected = math.hypot(2 * macs / 1e3, moved / 1e3)
    assert latency_us(toy(), layer) == pytest.approx(expected, rel=1e-5)
    batch = WorkloadBatch.of(only(layer))
    batch = replace(batch, convs=replace(batch.convs, groups=(DEPTHWISE,)))
    assert CostModel(toy()).predict_batch(batch).latency_ms[0] * 1e3 == pytest.approx(expected)


def test_other_ops_cost_the_share_of_their_bytes() -> None:
    concat = OtherOp("o", "concat", 8, 8, 10, 10, 10, 10)
    assert latency_us(toy(), concat) == pytest.approx(0.5 * 2 * 1600 / 1e3)


def test_an_activation_without_kernel_runs_in_fp32_between_conversions() -> None:
    mish = OtherOp("o", "mish", 8, 8, 10, 10, 10, 10)
    # read + write of 800 values: FP32 both; conversions 2 -> 4 and 4 -> 2 bytes
    assert latency_us(toy(), mish) == pytest.approx(800 * (8 + 6 + 6) / 1e3)
    native = replace(toy(), plugins=())
    assert latency_us(native, mish) == pytest.approx(0.5 * 2 * 1600 / 1e3)


def test_a_change_of_format_costs_where_the_profile_says_so() -> None:
    change = conversion("c", 8, 10, 10)
    assert latency_us(toy(), change) == 0
    dear = replace(toy(), traffic=TRAFFIC | {"convert": 3.0})
    assert (dear.converts, toy().converts) == (True, False)
    assert latency_us(dear, change) == pytest.approx(3.0 * 4 * 1600 / 1e3)


def test_energy_adds_idle_busy_macs_and_moved_bytes() -> None:
    cost = CostModel(toy()).predict(only(CONV))
    pixels = CONV.out_h * CONV.out_w
    moved = 2 * (16 * 8 * 9 + pixels * (8 + 16))
    expected = cost.latency_ms * (2.0 + 1.0) + CONV_MACS * 10e-9 + moved * 100e-9
    assert cost.energy_mj == pytest.approx(expected, rel=1e-5)
    half = CostModel(toy(), "HALF").predict(only(CONV))
    dynamic = half.latency_ms * 1.0 + CONV_MACS * 10e-9 + moved * 100e-9
    assert half.energy_mj == pytest.approx(half.latency_ms * 1.0 + dynamic / 2, rel=1e-5)


def test_host_energy_is_apart() -> None:
    model = CostModel(toy())
    host_ms = (5.0 + 800 * 1e-3) / 1e3
    assert model.host_energy_mj(only(CONV)) == pytest.approx(host_ms * (2.0 + 4.0))
    # Half the clock: an eighth of the host's power on top of what idles, twice the host's time.
    half = CostModel(toy(), "HALF")
    host_ms = (2 * 5.0 + 800 * 4e-3) / 1e3
    assert half.host_energy_mj(only(CONV)) == pytest.approx(host_ms * (1.0 + 4.0 / 8))


def test_decoding_takes_three_kernels_a_map() -> None:
    numbers = replace(toy().coefficients[16], op_launch_us=7.0)
    device = replace(toy(), coefficients={16: numbers, 32: numbers})
    decode = OtherOp("o", "decode", 8, 8, 10, 10, 10, 10)
    assert latency_us(device, decode) == pytest.approx(3 * 7 + 2 * 1600 / 1e3)


def test_size_counts_bits_density_and_the_index_of_kept_weights() -> None:
    weights = 16 * 8 * 9
    dense = CostModel(toy()).predict(only(CONV))
    assert dense.size_bytes == weights * 2
    sparse = replace(CONV, density=3 / 9, pattern="3ep", weight_bits=8)
    expected = weights * (8 / 3 + 4 / 9) / 8
    assert CostModel(toy()).predict(only(sparse)).size_bytes == pytest.approx(expected, rel=1e-5)


def test_an_executed_pattern_gains_and_an_illegal_one_is_refused() -> None:
    three = replace(CONV, density=3 / 9, pattern="3ep")
    assert latency_us(toy(), three) == pytest.approx(latency_us(toy(), CONV) / 2, rel=1e-5)
    with pytest.raises(InputError, match=r"pattern 2:4 are illegal on toy"):
        latency_us(toy(), replace(CONV, pattern="2:4"))


def test_interval_widens_outside_the_calibrated_range() -> None:
    inside = CostModel(toy()).predict(only(replace(CONV, out_h=100)))
    assert inside.high_ms / inside.latency_ms == pytest.approx(math.exp(0.1), rel=1e-5)
    assert inside.low_ms / inside.latency_ms == pytest.approx(math.exp(-0.1), rel=1e-5)
    assert inside.extrapolated == ()
    small = CostModel(toy()).predict(only(replace(CONV, out_h=1)))
    assert small.high_ms / small.latency_ms == pytest.approx(math.exp(0.15), rel=1e-5)
    assert "outside the calibrated 0.001 to 1 at 16 bits" in small.extrapolated[0]


def test_what_is_a_usual_size_in_one_precision_may_be_extrapolated_in_another() -> None:
    profile = toy()
    large = replace(profile.intervals[16], gmacs=(1.0, 2.0))
    profile = replace(profile, intervals=profile.intervals | {32: replace(large, calibrated=True)})
    layer = replace(CONV, out_h=100)
    half = CostModel(profile).predict(only(layer))
    assert half.extrapolated == ()
    full = CostModel(profile).predict(only(replace(layer, weight_bits=32, act_bits=32)))
    assert "at 32 bits" in full.extrapolated[0]
    assert full.high_ms / full.latency_ms == pytest.approx(math.exp(0.15), rel=1e-5)


def test_a_precision_without_measurements_is_flagged() -> None:
    layer = replace(CONV, weight_bits=32, act_bits=32, out_h=100)
    reasons = CostModel(toy()).predict(only(layer)).extrapolated
    assert reasons == ("No measurement at 32 bits was fitted for toy.",)


def test_layers_come_back_in_order_and_sum_to_the_total() -> None:
    profile = load_profile("jetson-tx2")
    workload = measured_network("yolov5_d33w25", 320, 320)
    cost = CostModel(profile).predict(workload)
    assert [layer.name for layer in cost.per_layer] == [layer.name for layer in workload.layers]
    total = sum(layer.latency_ms for layer in cost.per_layer) + profile.fixed_us / 1e3
    assert cost.latency_ms == pytest.approx(total, rel=1e-4)
    assert cost.macs == workload.macs


def test_a_batch_of_candidates_agrees_with_one_by_one() -> None:
    rng = np.random.default_rng(0)
    base = WorkloadBatch.of(measured_network("yolov8n", 320, 320))
    count, layers = 1100, len(base.convs.names)
    bits = rng.choice([8, 16], (count, layers))
    convs = replace(
        base.convs,
        in_channels=rng.integers(1, 300, (count, layers)),
        out_channels=rng.integers(1, 300, (count, layers)),
        groups=(1,) * layers,
        weight_bits=bits,
        act_bits=bits,
        pattern=rng.integers(0, 2, (count, layers)),
    )
    batch = replace(base, convs=convs)
    model = CostModel(load_profile("jetson-xavier-nx"))
    many = model.predict_batch(batch)
    for index in (0, 511, 512, 1099):
        one = model.predict_batch(batch.rows(index, index + 1))
        for name in ("latency_ms", "low_ms", "high_ms", "energy_mj", "size_bytes", "macs"):
            assert getattr(many, name)[index] == pytest.approx(getattr(one, name)[0], rel=1e-6)


def test_int8_is_stored_only_on_the_tx2_and_executed_on_xavier() -> None:
    fp16 = measured_network("yolov8n", 640, 640, bits=16)
    int8 = at_precision(fp16, 8)
    tx2 = CostModel(load_profile("jetson-tx2"))
    assert tx2.predict(int8).latency_ms == pytest.approx(tx2.predict(fp16).latency_ms)
    assert tx2.predict(int8).size_bytes == pytest.approx(tx2.predict(fp16).size_bytes / 2)
    nx = CostModel(load_profile("jetson-xavier-nx"))
    assert nx.predict(int8).latency_ms < 0.95 * nx.predict(fp16).latency_ms
    int4 = at_precision(fp16, 4)
    assert nx.predict(int4).latency_ms == pytest.approx(nx.predict(int8).latency_ms)
