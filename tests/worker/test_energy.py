"""Energy and conditions of a measurement, with a meter and a board that are known."""

import threading

import pytest
from paretrim_worker.board import Board
from paretrim_worker.power import Meter
from paretrim_worker.sandbox import ChildOptions, Sandbox
from paretrim_worker.security import Security
from paretrim_worker.server import Server
from paretrim_worker.service import Limits, Worker
from paretrim_worker.store import ModelStore
from paretrim_worker.turnstile import Turnstile

from .conftest import Wire

IDLE_MW, BUSY_MW = 1000.0, 5000.0


class KnownMeter(Meter):
    """Draws more while the sandbox does a job."""

    source = "known"

    def __init__(self):
        self.busy = threading.Event()

    def power_mw(self):
        return BUSY_MW if self.busy.is_set() else IDLE_MW


class WatchedSandbox(Sandbox):
    """Tells the meter when a job is timed."""

    meter = None

    def run(self, job, deadline_s, cancelled):
        for answer in super().run(job, deadline_s, cancelled):
            if self.meter is not None:
                timing = answer.get("stage") == "timing"
                (self.meter.busy.set if timing else self.meter.busy.clear)()
            yield answer


@pytest.fixture
def metered(tmp_path):
    """Starts a worker in this process with a meter; gives a connection."""
    closing = []

    def make(meter, board=None):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        sandbox = WatchedSandbox(ChildOptions("onnxruntime", 1, "cpu", scratch))
        sandbox.meter = meter if isinstance(meter, KnownMeter) else None
        store = ModelStore(2**20, 2**20, parent=tmp_path)
        worker = Worker(sandbox, store, Turnstile(2), board or Board(), meter, Limits(), 1)
        server = Server("127.0.0.1:0", Security(insecure=True), worker)
        wire = Wire("127.0.0.1:%d" % server.port)
        closing.extend([wire.close, server.stop, sandbox.close, store.close])
        return wire

    yield make
    for close in closing:
        close()


def test_energy_is_mean_power_times_latency(metered, models):
    wire = metered(KnownMeter())
    assert wire.info().power_source == "known"
    result = wire.measure(wire.upload(models.slow()), min_time_s=0.5, idle_s=0.2)
    assert result.power.source == "known"
    assert result.power.readings >= 3
    assert result.power.mean_mw == pytest.approx(BUSY_MW, rel=0.3)  # the first reading may be idle
    assert result.power.energy_mj == pytest.approx(
        result.power.mean_mw * 1e-3 * result.median_ms  # W x ms = mJ
    )
    assert result.power.idle_before_mw == IDLE_MW
    assert result.power.idle_after_mw == IDLE_MW


class MeterBesidesIdle(KnownMeter):
    """Has readings only while something is timed."""

    def power_mw(self):
        return BUSY_MW if self.busy.is_set() else None


def test_idle_power_without_a_reading_is_absent_not_zero(metered, models):
    wire = metered(MeterBesidesIdle())
    result = wire.measure(wire.upload(models.slow()), min_time_s=0.3, idle_s=0.1)
    assert result.power.mean_mw == BUSY_MW
    assert not result.power.HasField("idle_before_mw")
    assert not result.power.HasField("idle_after_mw")


class BrokenMeter(Meter):
    """Its files cannot be read."""

    source = "broken"

    def power_mw(self):
        raise OSError("gone")


def test_without_a_reading_there_is_no_energy(metered, models):
    wire = metered(BrokenMeter())
    result = wire.measure(wire.upload(models.conv()), min_time_s=0.2, idle_s=0.1)
    assert result.median_ms > 0
    assert not result.HasField("power")


def test_a_window_shorter_than_the_meters_period_has_no_energy(metered, models):
    wire = metered(KnownMeter())
    result = wire.measure(wire.upload(models.conv(size=8)), repeat=1, idle_s=0.0)
    assert result.window_s < 0.05
    assert not result.HasField("power")


def test_clocks_and_temperatures_travel(metered, models, tmp_path):
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2035200",
        "sys/class/thermal/thermal_zone0/type": "GPU-therm",
        "sys/class/thermal/thermal_zone0/temp": "48500",
    }
    for name, text in files.items():
        path = tmp_path / "board" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wire = metered(None, Board(tmp_path / "board"))
    result = wire.measure(wire.upload(models.conv()))
    for told in (wire.info().conditions, result.before, result.after):
        assert dict(told.clocks_mhz) == {"cpu0": 2035.2}
        assert dict(told.temperatures_c) == {"GPU-therm": 48.5}
