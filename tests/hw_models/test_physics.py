"""What must hold on every shipped profile, whatever was fitted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.cost import CostModel
from hw_models.device import load_profile, shipped_profiles
from hw_models.networks import MEASUREMENTS, measured_network
from hw_models.points import ENERGY, read_points
from hw_models.workload import ConvShape, OtherOp, Workload

PROFILES = shipped_profiles()

convs = st.builds(
    ConvShape,
    name=st.just("c"),
    in_channels=st.integers(1, 600),
    out_channels=st.integers(1, 600),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (6, 6), (1, 7)]),
    stride=st.sampled_from([(1, 1), (2, 2)]),
    groups=st.just(1),
    out_h=st.integers(1, 200),
    out_w=st.integers(1, 200),
    weight_bits=st.sampled_from([8, 16, 32]),
    act_bits=st.sampled_from([8, 16, 32]),
)


def latency(
    name: str, *layers: ConvShape | OtherOp, batch: int = 1, mode: str | None = None
) -> float:
    return CostModel(load_profile(name), mode).predict(Workload(layers, batch)).latency_ms


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=40, deadline=None)
@given(conv=convs, extra=st.integers(1, 64), field=st.sampled_from(
    ["in_channels", "out_channels", "out_h", "out_w"]))  # fmt: skip
def test_more_channels_or_pixels_never_cost_less(
    name: str, conv: ConvShape, extra: int, field: str
) -> None:
    larger = replace(conv, **{field: getattr(conv, field) + extra})
    assert latency(name, larger) >= latency(name, conv) * (1 - 1e-5)


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=40, deadline=None)
@given(conv=convs)
def test_more_bits_never_cost_less_time_energy_or_size(name: str, conv: ConvShape) -> None:
    model = CostModel(load_profile(name))
    costs = [
        model.predict(Workload((replace(conv, weight_bits=bits, act_bits=bits),)))
        for bits in (4, 8, 16, 32)
    ]
    for narrow, wide in pairwise(costs):
        assert wide.latency_ms >= narrow.latency_ms * (1 - 1e-5)
        assert wide.size_bytes > narrow.size_bytes
        if not np.isnan(wide.energy_mj):
            assert wide.energy_mj >= narrow.energy_mj * (1 - 1e-5)


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=25, deadline=None)
@given(first=convs, second=convs, batch=st.integers(1, 64))
def test_more_layers_or_images_never_cost_less(
    name: str, first: ConvShape, second: ConvShape, batch: int
) -> None:
    both = (first, replace(second, name="d"))
    assert latency(name, *both) > latency(name, first)
    assert latency(name, first, batch=batch + 1) >= latency(name, first, batch=batch) * (1 - 1e-5)


@pytest.mark.parametrize("name", PROFILES)
def test_pruning_below_a_granule_gains_no_compute(name: str) -> None:
    profile = load_profile(name)
    # A compute-bound layer: what is left to gain are the bytes.
    conv = ConvShape("c", 256, 256, (3, 3), (1, 1), 1, 64, 64)
    within = replace(conv, in_channels=256 - profile.granule + 1)
    below = replace(conv, in_channels=256 - profile.granule)
    full, same, less = (latency(name, layer) for layer in (conv, within, below))
    assert full - same < 0.5 * (full - less)


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=15, deadline=None)
@given(conv=convs, slower=st.floats(0.2, 1.0))
def test_latency_falls_with_clocks(name: str, conv: ConvShape, slower: float) -> None:
    mode = load_profile(name).mode(None)
    clocks = f"{mode.gpu_mhz * slower:.2f}@{mode.emc_mhz * slower:.2f}"
    assert latency(name, conv, mode=clocks) >= latency(name, conv) * (1 - 1e-4)


@pytest.mark.parametrize("name", PROFILES)
def test_the_interval_holds_the_prediction(name: str) -> None:
    cost = CostModel(load_profile(name)).predict(measured_network("yolov5_d33w25", 320, 320))
    assert 0 < cost.low_ms < cost.latency_ms < cost.high_ms


def test_energy_falls_with_the_power_mode_as_measured() -> None:
    """QuTiBench's CNV rows: the energy between modes, in the median over nets and batches."""
    profile = load_profile("jetson-tx2")
    energy: dict[tuple[object, ...], dict[str, tuple[float, float]]] = defaultdict(dict)
    for point in read_points(MEASUREMENTS / "jetson-tx2.csv"):
        if point.metric == ENERGY and point.network.startswith("cnv_"):
            predicted = CostModel(profile, point.power_mode).predict(point.workload).energy_mj
            key = (point.network, point.batch, point.precision)
            energy[key][point.power_mode] = (point.value, predicted / point.batch)
    assert len(energy) == 64

    def ratio(mode: str, which: int) -> float:
        return float(
            np.median([modes[mode][which] / modes["MAXN"][which] for modes in energy.values()])
        )

    assert ratio("MAXQ", 1) < ratio("MAXP", 1) < 1
    for mode in ("MAXQ", "MAXP"):
        assert ratio(mode, 1) == pytest.approx(ratio(mode, 0), rel=0.1)
