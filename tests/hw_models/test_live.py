"""Calibration from a live worker: a real one over TCP, a small design."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hw_models import live
from hw_models.cli import add_commands
from hw_models.cost import CostModel
from hw_models.device import load_profile, profile_from_dict, slowed
from hw_models.errors import InputError
from hw_models.live import DESIGN, Trial, host_facts, measurable
from hw_models.measurement import DeviceCallError, Measurement, MeasureProtocol
from hw_models.member import Rules
from hw_models.networks import measured_network
from hw_models.points import read_points

TOLERANT = Rules(drift=1e3, noise=1e3)  # tests run on busy machines
APP = typer.Typer()
add_commands(APP)

SMALL = (
    Trial("conv1-16-16", 40), Trial("conv3-16-16", 40), Trial("conv3-32-32", 40),
    Trial("conv1-64-32", 20), Trial("yolov5u-w12-d33-c5-s0-q100", 96),
    Trial("yolov5u-w12-d33-c5-s1-q50", 160), Trial("yolov5u-w25-d33-c5-s0-q100", 96, "validate"),
)  # fmt: skip


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_a_worker_is_calibrated_and_the_table_reproduces_the_profile(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    monkeypatch.setattr(live, "DESIGN", SMALL)
    monkeypatch.setattr(live, "RULES", TOLERANT)
    output = tmp_path / "host-cpu.yaml"
    result = run("calibrate", "--measure-on", worker.address, "--output", output)
    assert result.exit_code == 0, result.output
    assert "fp32: 1 whole networks never fitted" in result.output
    profile = load_profile(output)
    assert profile.baseline_bits == 32
    assert profile.execution(8, 8) == "executed"
    points = read_points(tmp_path / "host-cpu.csv")
    assert [point.role for point in points].count("validate") == 2
    network = measured_network("yolov5u-w12-d33-c5-s0-q100", 96, 96, bits=32)
    times = {(p.network, p.input_h, p.precision): p.value for p in points}
    predicted = CostModel(profile).predict(network).latency_ms
    # Machines that run tests are busy: this is about the order of magnitude.
    assert 0.1 < predicted / times["yolov5u-w12-d33-c5-s0-q100", 96, "fp32"] < 10

    again = tmp_path / "again.yaml"
    result = run("calibrate", "--from", tmp_path / "host-cpu.csv", "--output", again)
    assert result.exit_code == 0, result.output
    assert again.read_text() == output.read_text()


class StubPool:
    """Takes its time, may fail after some measurements, and may be disturbed.

    Args:
        seconds: A measurement.
        fails_after: So many measurements.
        slowed: Time of a measurement over that of the undisturbed device, by its number.
    """

    def __init__(
        self,
        seconds: float,
        fails_after: int = 999,
        slowed: Callable[[int], float] = lambda number: 1.0,
    ) -> None:
        self.seconds = seconds
        self.fails_after = fails_after
        self.slowed = slowed
        self.now_s = 0.0
        self.made = 0

    def measure(self, model: bytes, protocol: MeasureProtocol) -> Measurement:
        self.now_s += self.seconds
        if self.fails_after == 0:
            raise DeviceCallError("it is ill")
        self.fails_after -= 1
        latency_ms = 2.0 * self.slowed(self.made)
        self.made += 1
        samples = (latency_ms,) * protocol.repeat
        return Measurement(latency_ms, samples, None, "a:1", "fixed", protocol, "0" * 64)


def measure_small(pool: StubPool) -> tuple[list[float], int]:
    """Return the latencies, and how many rows were disturbed to the end."""
    points: dict[live.Run, live.Point] = {}
    disturbed = live.run_design(
        pool, SMALL, ("fp32", "int8"), lambda *_: None, points, lambda: pool.now_s  # type: ignore[arg-type]
    )  # fmt: skip
    return [point.value for point in points.values()], disturbed


def test_a_design_that_takes_too_long_ends_and_says_how_far_it_came() -> None:
    assert len(measure_small(StubPool(live.LONGEST_S / 20))[0]) == 14
    with pytest.raises(DeviceCallError, match=r"expected 14 .* within 14 minutes, got 5"):
        measure_small(StubPool(live.LONGEST_S / 5))


def test_a_calm_device_is_measured_twice() -> None:
    pool = StubPool(1.0)
    assert measure_small(pool) == ([2.0] * 14, 0)
    assert pool.made == 28


def test_of_a_disturbed_device_the_undisturbed_times_are_taken() -> None:
    """A neighbour that comes and goes: 40 % slower for most of the time."""
    draw = random.Random(3)  # noqa: S311 a neighbour, not a secret
    slow = [1.4 if draw.random() < 0.6 else 1.0 for _ in range(1000)]
    pool = StubPool(1.0, slowed=slow.__getitem__)
    latencies_ms, disturbed = measure_small(pool)
    assert latencies_ms == [2.0] * 14
    assert pool.made == 14 * live.PASSES
    assert disturbed < 3


def test_rows_that_were_never_measured_twice_alike_are_counted() -> None:
    pool = StubPool(1.0, slowed=lambda number: 1 + 0.1 * (number // 14))
    assert measure_small(pool) == ([2.0] * 14, 14)


def test_what_was_measured_before_a_failure_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")

    @contextmanager
    def connected(*_: object) -> Iterator[object]:
        yield StubPool(1.0, fails_after=4), INFO

    monkeypatch.setattr(live, "DESIGN", SMALL)
    monkeypatch.setattr(live, "connected", connected)
    result = run("calibrate", "--measure-on", "a:1", "--output", tmp_path / "host-cpu.yaml")
    assert isinstance(result.exception, DeviceCallError)
    assert len(read_points(tmp_path / "host-cpu-part.csv")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["host-cpu-part.csv"]


def test_a_known_cpu_is_recovered() -> None:
    """Rows made by a known device, fitted with the plan of a CPU."""
    pytest.importorskip("scipy")
    info = INFO
    truth = CostModel(slowed(load_profile("jetson-nano-yolobench"), 0.5))

    def latency_ms(trial: Trial) -> float:
        network = measured_network(trial.network, trial.rows, trial.rows, bits=32)
        return truth.predict(network).latency_ms

    points = [
        live.Point(
            trial.origin, trial.network, trial.rows, trial.rows, 1, "FIXED", "fp32",
            live.LATENCY, latency_ms(trial), trial.role,
        )
        for trial in DESIGN
        if "fp32" in trial.precisions
    ]  # fmt: skip
    fitted = live.fit_host(info, points, ("fp32",))
    assert fitted["residuals"]["held_out"]["fp32"]["mape_percent"] < 5
    assert profile_from_dict(fitted, "fitted").granule in live.CHANNEL_STEPS


def test_only_cpus_are_calibrated(faulty: Any, connect: Any) -> None:
    info = connect(faulty().address).info()
    with pytest.raises(InputError, match="expected a worker whose runtime is on a CPU"):
        measurable(info)


def test_either_a_table_or_a_device(tmp_path: Path) -> None:
    for arguments in ((), ("--from", "a.csv", "--measure-on", "127.0.0.1:1")):
        result = run("calibrate", "--output", tmp_path / "a.yaml", *arguments)
        assert isinstance(result.exception, InputError)
        assert "expected either --from" in str(result.exception)


def test_facts_name_the_device() -> None:
    facts = host_facts(INFO, ("fp32",), 16)
    assert "Some CPU" in facts["description"]
    assert list(facts["plan"]["latency"]) == [32]


INFO = live.DeviceInfo(
    address="127.0.0.1:1", board="Some CPU", device_id="1", power_mode="fixed",
    power_modes=("fixed",), runtime="onnxruntime", runtime_version="1", processor="cpu",
    precisions=("fp32", "int8"), threads=1, model_bytes=1, power_source="", temperature=None,
    throttled=None, busy=False, queued=0, worker_version="1",
)  # fmt: skip


def test_a_slowed_profile_takes_longer_in_proportion() -> None:
    profile = load_profile("jetson-xavier-nx")
    network = measured_network("yolov8n", 320, 320)
    plain = CostModel(profile).predict(network)
    slow = CostModel(slowed(profile, 1.7)).predict(network)
    assert slow.latency_ms == pytest.approx(1.7 * plain.latency_ms, rel=1e-4)
    assert slow.size_bytes == plain.size_bytes
