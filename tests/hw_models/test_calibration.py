from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_models import calibration
from hw_models.calibration import FITTED, calibrate, profile_text
from hw_models.cost import CostModel
from hw_models.device import DEVICES, load_profile, profile_from_dict, read_profile_yaml
from hw_models.energy_fit import errors_at_measured_times
from hw_models.errors import InputError
from hw_models.networks import MEASUREMENTS, measured_network
from hw_models.points import ENERGY, LATENCY, Fleet, Point, read_points

MEASURED = sorted(p.stem for p in MEASUREMENTS.glob("jetson-*.csv"))
QUICK = ["jetson-nano-yolobench", "jetson-nano", "jetson-agx-xavier"]


def reproduced(name: str) -> str:
    content = read_profile_yaml(DEVICES / f"{name}.yaml")
    return profile_text(calibrate(content, read_points(MEASUREMENTS / f"{name}.csv")))


@pytest.mark.parametrize("name", QUICK)
def test_shipped_profiles_are_reproduced_byte_for_byte(name: str) -> None:
    assert reproduced(name) == (DEVICES / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MEASURED) - set(QUICK)))
def test_the_other_profiles_too(name: str) -> None:
    assert reproduced(name) == (DEVICES / f"{name}.yaml").read_text(encoding="utf-8")


def _synthetic(scale: float, role: str = "calibrate") -> list[Point]:
    """Rows made by a known device: the NX with all times scaled."""
    model = CostModel(load_profile("jetson-xavier-nx"))
    points = []
    for network in ("yolov8n", "yolov8m", "yolov7", "resnet50", "yolox_nano"):
        for size in (224, 448):
            workload = measured_network(network, size, size)
            value = model.predict(workload).latency_ms * scale
            point = Point("trtutils", network, size, size, 1, "15W", "fp16", LATENCY, value, role)
            points.append(point)
    return points


def test_a_fit_recovers_the_device_its_rows_were_made_with() -> None:
    content = read_profile_yaml(DEVICES / "jetson-xavier-nx.yaml")
    fitted = calibrate(content, _synthetic(1.0))
    assert fitted["residuals"]["latency"]["fp16"]["mape_percent"] < 3
    profile = profile_from_dict(fitted, "fitted")
    unseen = measured_network("yolov9m", 640, 640)
    truth = CostModel(load_profile("jetson-xavier-nx")).predict(unseen).latency_ms
    assert CostModel(profile).predict(unseen).latency_ms == pytest.approx(truth, rel=0.1)


def test_a_device_twice_as_slow_is_fitted_twice_as_slow() -> None:
    content = read_profile_yaml(DEVICES / "jetson-xavier-nx.yaml")
    slow = profile_from_dict(calibrate(content, _synthetic(2.0)), "slow")
    workload = measured_network("yolov8n", 640, 640)
    base = CostModel(load_profile("jetson-xavier-nx")).predict(workload).latency_ms
    assert CostModel(slow).predict(workload).latency_ms == pytest.approx(2 * base, rel=0.15)


def test_validate_rows_change_nothing() -> None:
    content = read_profile_yaml(DEVICES / "jetson-xavier-nx.yaml")
    points = _synthetic(1.0)
    absurd = [replace(point, value=1e6) for point in _synthetic(1.0, "validate")]
    assert calibrate(content, points) == calibrate(content, [*points, *absurd])


def test_fitted_keys_of_the_start_do_not_matter() -> None:
    content = read_profile_yaml(DEVICES / "jetson-xavier-nx.yaml")
    facts = {key: value for key, value in content.items() if key not in FITTED}
    points = _synthetic(1.0)
    assert calibrate(facts, points) == calibrate(content, points)


def test_a_fleet_prices_like_the_cost_model() -> None:
    profile = load_profile("jetson-tx2")
    points = [
        p for p in read_points(MEASUREMENTS / "jetson-tx2.csv")
        if p.metric == LATENCY and p.network in {"cnv_50", "inception_v1"}
    ]  # fmt: skip
    one_by_one = [CostModel(profile, p.power_mode).predict(p.workload).latency_ms for p in points]
    assert np.allclose(Fleet(points).latency_ms(profile, {}), one_by_one, rtol=1e-4)


def test_energy_is_fitted_where_it_was_measured_and_nan_elsewhere() -> None:
    assert load_profile("jetson-tx2").energy.pj_per_mac[32] > 0
    cost = CostModel(load_profile("jetson-nano")).predict(measured_network("yolov8n", 320, 320))
    assert np.isnan(cost.energy_mj)
    assert not np.isnan(cost.latency_ms)
    points = read_points(MEASUREMENTS / "jetson-nano.csv")
    assert not [point for point in points if point.metric == ENERGY]


def test_a_run_that_was_measured_twice_counts_twice() -> None:
    profile = load_profile("jetson-xavier-nx")
    points = read_points(MEASUREMENTS / "jetson-xavier-nx.csv")
    for role in ("calibrate", "validate"):
        rows = [point for point in points if point.role == role]
        energies = [point for point in rows if point.metric == ENERGY]
        places = {(p.network, p.batch, p.power_mode) for p in energies}
        assert len(errors_at_measured_times(profile, rows)) == len(energies) > len(places)


def test_every_figure_has_a_source_and_no_harmonic_row_is_shipped() -> None:
    for name in MEASURED:
        text = (MEASUREMENTS / f"{name}.csv").read_text(encoding="utf-8")
        assert "harmonic" not in text.lower()
        header, *rows = text.splitlines()
        column = header.split(",").index("source")
        assert rows
        assert all(row.split(",")[column] for row in rows)


def test_a_profile_without_plan_or_rows_is_an_input_error() -> None:
    content = read_profile_yaml(DEVICES / "jetson-xavier-nx.yaml")
    with pytest.raises(InputError, match="no latency"):
        calibrate(content, _synthetic(1.0, "validate"))
    with pytest.raises(InputError, match="has no plan"):
        calibrate({k: v for k, v in content.items() if k != "plan"}, _synthetic(1.0))


@pytest.mark.parametrize(
    "change",
    [{"value": "fast"}, {"value": "-1"}, {"precision": "int2"}, {"batch": "0"}, {"input_h": ""}],
)
def test_a_malformed_row_names_its_line(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {
        "origin": "o", "network": "resnet50", "input_h": "224", "input_w": "224", "batch": "1",
        "power_mode": "15W", "precision": "fp16", "metric": "latency_ms", "value": "3",
        "role": "calibrate", "source": "s", "note": "",
    }  # fmt: skip
    path = tmp_path / "t.csv"
    good, bad = (",".join((row | c).values()) for c in ({}, change))
    path.write_text("\n".join([",".join(row), good, bad]))
    with pytest.raises(InputError, match=r"t\.csv, line 3"):
        read_points(path)


def test_a_quantile_counts_weights() -> None:
    values, weights = np.asarray([3.0, 1.0, 2.0]), np.asarray([1.0, 8.0, 1.0])
    assert calibration._quantile(values, weights, 0.5) == 1.0
    assert calibration._quantile(values, weights, 0.9) == 2.0
    assert calibration._quantile(values, weights, 0.95) == 3.0
