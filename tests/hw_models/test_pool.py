"""The pool: each rule on scripted devices with a clock of their own, then servers that err."""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hw_models.client import Timeouts
from hw_models.errors import InputError
from hw_models.golden import golden
from hw_models.measurement import (
    DeviceCallError,
    DeviceInfo,
    Measurement,
    MeasureProtocol,
    Progress,
    Retry,
)
from hw_models.member import Health, Rules, relative_noise, without_outliers
from hw_models.pool import DevicePool, State

QUICK = MeasureProtocol(warm_up=0, repeat=9, min_time_s=0.0, idle_s=0.0)
MODEL = b"any model"
GOLDEN = hashlib.sha256(golden().model).hexdigest()
RULES = Rules(attempts=3, lease_s=100.0, busy_s=30.0, thermal_s=60.0, poll_s=5.0, acquire_s=5.0)


class Clock:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


Script = Callable[["ScriptedDevice"], None]


@dataclass
class ScriptedDevice:
    """Answers at once and as it should, unless `script` raises or changes something."""

    address: str
    latency_ms: float = 4.0
    golden_ms: float = 1.0
    noise: float = 0.001
    info_now: DeviceInfo = field(init=False)
    throttled: bool | None = None
    stored: set[str] = field(default_factory=set)
    before_measure: Script = field(default=lambda device: None)
    before_golden: Script = field(default=lambda device: None)
    measured: int = 0
    goldens: int = 0
    outputs: tuple[Any, ...] = field(default_factory=lambda: (golden().expected,))

    def __post_init__(self) -> None:
        self.info_now = DeviceInfo(
            address=self.address,
            board="board",
            device_id=self.address,
            power_mode="MAXN",
            power_modes=("MAXN",),
            runtime="trtexec",
            runtime_version="8",
            processor="tensorrt",
            precisions=("fp32",),
            threads=1,
            model_bytes=2**20,
            power_source="",
            temperature=50.0,
            throttled=None,
            busy=False,
            queued=0,
            worker_version="1",
        )

    def info(self) -> DeviceInfo:
        return self.info_now

    def is_serving(self) -> bool:
        return True

    def upload(self, model: bytes | Path) -> str:
        assert isinstance(model, bytes)
        self.stored.add(hashlib.sha256(model).hexdigest())
        return hashlib.sha256(model).hexdigest()

    def measure(
        self,
        model_digest: str,
        protocol: MeasureProtocol,
        shapes: Mapping[str, Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Measurement:
        if model_digest not in self.stored:
            raise DeviceCallError("not stored", "", Retry.UPLOAD)
        if model_digest == GOLDEN:
            self.goldens += 1
            self.before_golden(self)
        else:
            self.measured += 1
            self.before_measure(self)
        if progress is not None:
            progress("timing", 0, protocol.repeat)
        latency_ms = self.golden_ms if model_digest == GOLDEN else self.latency_ms
        middle = (protocol.repeat - 1) / 2
        noise = 0.001 if model_digest == GOLDEN else self.noise
        samples = [latency_ms * (1 + noise * (index - middle)) for index in range(protocol.repeat)]
        return Measurement(
            latency_ms=statistics.median(samples),
            samples=tuple(samples),
            energy_mj=None,
            device=self.info_now.key,
            power_mode=self.info_now.power_mode,
            protocol=protocol,
            model_digest=model_digest,
            throttled=self.throttled,
            outputs=self.outputs,
        )

    def close(self) -> None:
        self.stored.clear()


def failing(times: int, error: Exception) -> Script:
    """Raises so many times, then no more."""
    left = [times]

    def script(device: ScriptedDevice) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return script


TROUBLE = DeviceCallError("the measuring process died")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_pool(clock: Clock) -> Iterator[Any]:
    pools: list[DevicePool] = []

    def make(*devices: Any, **changes: Any) -> DevicePool:
        pools.append(DevicePool(devices, replace(RULES, **changes), clock, clock.sleep))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def health(pool: DevicePool) -> list[Health]:
    return [status.health for status in pool.status()]


class TestRegistration:
    def test_the_golden_check_makes_a_device_good(self, make_pool: Any) -> None:
        pool = make_pool(ScriptedDevice("a:1", golden_ms=2.5))
        (status,) = pool.status()
        assert (status.state, status.health) == (State.IDLE, Health.GOOD)
        assert status.reference_ms == pytest.approx(2.5)
        assert pool.kinds == ("board | trtexec 8 tensorrt | MAXN",)

    def test_a_device_that_computes_wrongly_is_not_used(self, make_pool: Any) -> None:
        wrong = ScriptedDevice("a:1", outputs=(replace(golden().expected, mean=9.9),))
        pool = make_pool(wrong, ScriptedDevice("b:1"))
        assert health(pool) == [Health.QUARANTINED, Health.GOOD]
        assert "computes wrongly" in pool.status()[0].trouble
        pool.measure(MODEL, QUICK)
        assert wrong.measured == 0

    def test_a_device_without_the_output_is_not_used(self, make_pool: Any) -> None:
        assert health(make_pool(ScriptedDevice("a:1", outputs=()))) == [Health.QUARANTINED]

    def test_a_device_that_does_not_answer(self, make_pool: Any, clock: Clock) -> None:
        device = ScriptedDevice("a:1", before_golden=failing(1, TROUBLE))
        pool = make_pool(device)
        with pytest.raises(DeviceCallError, match=r"no device is usable. .*died"):
            pool.measure(MODEL, QUICK)
        clock.now_s += RULES.quarantine_s
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)

    def test_devices_have_different_addresses(self) -> None:
        with pytest.raises(InputError, match="each address once"):
            DevicePool([ScriptedDevice("a:1"), ScriptedDevice("a:1")])
        with pytest.raises(InputError, match="at least one"):
            DevicePool([])

    def test_of_several_kinds_one_has_to_be_named(self, make_pool: Any) -> None:
        other = ScriptedDevice("b:1", latency_ms=7.0)
        other.info_now = replace(other.info_now, board="other")
        pool = make_pool(ScriptedDevice("a:1"), other)
        with pytest.raises(InputError, match="several kinds"):
            pool.measure(MODEL, QUICK)
        assert pool.measure(MODEL, QUICK, kind=other.info_now.kind).latency_ms == pytest.approx(7)


class TestRetries:
    def test_another_device_takes_over(self, make_pool: Any) -> None:
        ill = ScriptedDevice("a:1", before_measure=failing(9, TROUBLE))
        well = ScriptedDevice("b:1")
        pool = make_pool(ill, well)
        assert pool.measure(MODEL, QUICK).device == well.info_now.key
        assert ill.measured == 1

    def test_the_only_device_is_tried_again_after_its_golden_check(self, make_pool: Any) -> None:
        device = ScriptedDevice("a:1", before_measure=failing(1, TROUBLE))
        pool = make_pool(device)
        at_first = device.goldens
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)
        assert device.goldens == at_first + 5 + 1  # the check, and the reference after the model

    def test_attempts_are_bounded(self, make_pool: Any) -> None:
        device = ScriptedDevice("a:1", before_measure=failing(99, TROUBLE))
        pool = make_pool(device, failures=99)
        with pytest.raises(DeviceCallError, match=r"3 attempts failed; .*died"):
            pool.measure(MODEL, QUICK)
        assert device.measured == 3

    def test_what_no_device_can_do_is_not_tried_again(self, make_pool: Any) -> None:
        refused = DeviceCallError("operator not allowed", "", Retry.NEVER)
        devices = [ScriptedDevice(f"{n}:1", before_measure=failing(9, refused)) for n in "ab"]
        pool = make_pool(*devices)
        with pytest.raises(DeviceCallError, match="operator not allowed"):
            pool.measure(MODEL, QUICK)
        assert sum(device.measured for device in devices) == 1
        assert health(pool) == [Health.GOOD, Health.GOOD]

    def test_a_forgotten_model_is_uploaded_again(self, make_pool: Any) -> None:
        device = ScriptedDevice("a:1")
        pool = make_pool(device)
        pool.measure(MODEL, QUICK)
        device.stored.clear()
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)

    def test_a_model_that_is_always_damaged_gives_up(self, make_pool: Any) -> None:
        damaged = DeviceCallError("wrong digest", "", Retry.UPLOAD)
        device = ScriptedDevice("a:1", before_measure=failing(999, damaged))
        with pytest.raises(DeviceCallError, match="wrong digest"):
            make_pool(device).measure(MODEL, QUICK)

    def test_a_full_queue_is_waited_for(self, make_pool: Any, clock: Clock) -> None:
        busy = DeviceCallError("queue is full", "", Retry.HERE)
        device = ScriptedDevice("a:1", before_measure=failing(2, busy))
        assert make_pool(device).measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)
        assert len(clock.slept) == 2
        assert len(set(clock.slept)) == 2  # with jitter
        assert all(0.5 * RULES.poll_s <= wait <= 1.5 * RULES.poll_s for wait in clock.slept)

    def test_a_queue_that_stays_full_is_no_illness(self, make_pool: Any) -> None:
        busy = DeviceCallError("queue is full", "", Retry.HERE)
        pool = make_pool(ScriptedDevice("a:1", before_measure=failing(999, busy)))
        with pytest.raises(DeviceCallError, match="queue is full"):
            pool.measure(MODEL, QUICK)
        assert health(pool) == [Health.GOOD]

    def test_bugs_are_not_hidden(self, make_pool: Any) -> None:
        pool = make_pool(ScriptedDevice("a:1", before_measure=failing(1, ZeroDivisionError())))
        with pytest.raises(ZeroDivisionError):
            pool.measure(MODEL, QUICK)
        assert pool.status()[0].state is State.IDLE  # the lease was given back


class TestQuarantine:
    def test_failures_in_a_row_and_doubling(self, make_pool: Any, clock: Clock) -> None:
        device = ScriptedDevice("a:1", before_measure=failing(999, TROUBLE))
        pool = make_pool(device, attempts=2, failures=2)
        for length_s in (RULES.quarantine_s, 2 * RULES.quarantine_s):
            with pytest.raises(DeviceCallError):
                pool.measure(MODEL, QUICK)
            assert health(pool) == [Health.QUARANTINED]
            clock.now_s += length_s - RULES.acquire_s - 1
            with pytest.raises(DeviceCallError, match="usable"):
                pool.measure(MODEL, QUICK)
            clock.now_s += RULES.acquire_s + 1
        device.before_measure = lambda device: None
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)
        assert health(pool) == [Health.GOOD]

    def test_a_success_starts_the_count_anew(self, make_pool: Any) -> None:
        device = ScriptedDevice("a:1")
        pool = make_pool(device)
        for _ in range(4):
            device.before_measure = failing(1, TROUBLE)
            pool.measure(MODEL, QUICK)
        assert health(pool) == [Health.GOOD]

    def test_a_failed_golden_check_quarantines_at_once(self, make_pool: Any) -> None:
        device = ScriptedDevice("a:1", before_measure=failing(1, TROUBLE))
        pool = make_pool(device, ScriptedDevice("b:1"), failures=9)
        device.outputs = ()
        pool.measure(MODEL, QUICK)
        assert health(pool) == [Health.QUARANTINED, Health.GOOD]

    def test_another_power_mode_is_another_device(self, make_pool: Any, clock: Clock) -> None:
        device = ScriptedDevice("a:1")
        pool = make_pool(device)
        device.info_now = replace(device.info_now, power_mode="MAXQ")
        with pytest.raises(DeviceCallError):
            pool.measure(MODEL, QUICK)
        assert health(pool) == [Health.QUARANTINED]
        assert "MAXQ" in pool.status()[0].trouble
        device.info_now = replace(device.info_now, power_mode="MAXN")
        clock.now_s += RULES.quarantine_s
        assert pool.measure(MODEL, QUICK).power_mode == "MAXN"

    def test_where_all_are_quarantined_the_first_one_due_is_waited_for(
        self, make_pool: Any, clock: Clock
    ) -> None:
        device = ScriptedDevice("a:1", before_measure=failing(2, TROUBLE))
        pool = make_pool(device, acquire_s=200.0, failures=1)
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)
        assert clock.slept == [RULES.quarantine_s, 2 * RULES.quarantine_s]


class TestSteadiness:
    def test_a_measurement_while_the_device_drifted_does_not_count(self, make_pool: Any) -> None:
        """Something slows the device during the first measurement and its reference."""

        def slow(device: ScriptedDevice) -> None:
            device.latency_ms = device.golden_ms = 8.0 if device.measured == 1 else 1.0

        device = ScriptedDevice("a:1", before_measure=slow)
        measured = make_pool(device).measure(MODEL, QUICK)
        assert measured.latency_ms == pytest.approx(1.0)
        assert device.measured == 2

    def test_a_device_that_stays_drifted_is_quarantined(self, make_pool: Any) -> None:
        def slow(device: ScriptedDevice) -> None:
            device.golden_ms = 1.3

        pool = make_pool(ScriptedDevice("a:1", before_measure=slow))
        with pytest.raises(DeviceCallError):
            pool.measure(MODEL, QUICK)
        assert health(pool) == [Health.QUARANTINED]
        assert "1.000 ms at first" in pool.status()[0].trouble

    def test_a_small_change_is_no_drift(self, make_pool: Any) -> None:
        def slower(device: ScriptedDevice) -> None:
            device.golden_ms = 1.1

        device = ScriptedDevice("a:1", before_measure=slower)
        make_pool(device).measure(MODEL, QUICK)
        assert device.measured == 1

    def test_who_times_a_reference_of_his_own_needs_no_golden_model_in_between(
        self, make_pool: Any
    ) -> None:
        def slow(device: ScriptedDevice) -> None:
            device.golden_ms = 5.0

        device = ScriptedDevice("a:1", before_measure=slow)
        pool = make_pool(device, drift=math.inf)
        before = device.goldens
        for _ in range(3):
            pool.measure(MODEL, QUICK)
        assert (device.measured, device.goldens) == (3, before)

    def test_noisy_samples_are_taken_again(self, make_pool: Any) -> None:
        def calm(device: ScriptedDevice) -> None:
            device.noise = 0.2 if device.measured == 1 else 0.001

        device = ScriptedDevice("a:1", before_measure=calm)
        measured = make_pool(device).measure(MODEL, QUICK)
        assert relative_noise(measured) < 0.01
        assert device.measured == 2

    def test_the_calmest_is_taken_where_all_are_noisy(self, make_pool: Any) -> None:
        def restless(device: ScriptedDevice) -> None:
            device.noise = (0.0, 0.2, 0.08, 0.11)[device.measured]

        device = ScriptedDevice("a:1", before_measure=restless)
        measured = make_pool(device).measure(MODEL, QUICK)
        assert device.measured == RULES.repeats
        assert relative_noise(measured) == pytest.approx(1.4826 * 2 * 0.08)

    def test_what_stays_noisy_is_warned_of(
        self, make_pool: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "hw_models.member"):
            make_pool(ScriptedDevice("a:1")).measure(MODEL, QUICK)
            assert not caplog.messages
            make_pool(ScriptedDevice("a:1", noise=0.2)).measure(MODEL, QUICK)
        (message,) = caplog.messages
        assert "a:1: the samples stay noisy" in message

    def test_a_throttled_measurement_does_not_count(self, make_pool: Any) -> None:
        def heat(device: ScriptedDevice) -> None:
            device.throttled = device.measured == 1

        device = ScriptedDevice("a:1", before_measure=heat)
        assert make_pool(device).measure(MODEL, QUICK).throttled is False
        assert device.measured == 2

    def test_a_hot_device_is_waited_for(self, make_pool: Any, clock: Clock) -> None:
        device = ScriptedDevice("a:1")
        pool = make_pool(device)
        warm = device.info_now
        answers = [replace(warm, temperature=95.0), replace(warm, throttled=True), warm]
        device.info = lambda: answers.pop(0) if len(answers) > 1 else warm  # type: ignore[method-assign]
        pool.measure(MODEL, QUICK)
        assert clock.slept == [RULES.poll_s] * 2

    def test_a_device_that_stays_hot_is_given_up(self, make_pool: Any, clock: Clock) -> None:
        hot = ScriptedDevice("a:1")
        pool = make_pool(hot, ScriptedDevice("b:1"))
        hot.info_now = replace(hot.info_now, temperature=95.0)
        assert "b:1" in pool.measure(MODEL, QUICK).device
        assert clock.now_s >= RULES.thermal_s


class TestLeases:
    def test_a_late_reply_does_not_count(self, make_pool: Any, clock: Clock) -> None:
        """The lease ended while the device was silent; its answer is dropped."""

        def late(device: ScriptedDevice) -> None:
            if device.measured == 1:
                clock.now_s += RULES.lease_s + 1

        device = ScriptedDevice("a:1", before_measure=late)
        pool = make_pool(device)
        assert pool.measure(MODEL, QUICK).latency_ms == pytest.approx(4.0)
        assert device.measured == 2
        assert pool.status()[0].measured == 1

    def test_one_measurement_at_a_time_on_each_device(self, make_pool: Any) -> None:
        inside: dict[str, int] = {}
        most: list[int] = []
        lock = threading.Lock()
        both = threading.Barrier(2, timeout=10)

        def watch(device: ScriptedDevice) -> None:
            with lock:
                inside[device.address] = inside.get(device.address, 0) + 1
                most.append(inside[device.address])
            if len(most) <= 2:
                both.wait()  # two devices are in use at once
            with lock:
                inside[device.address] -= 1

        pool = make_pool(*(ScriptedDevice(f"{n}:1", before_measure=watch) for n in "ab"))
        with ThreadPoolExecutor(6) as threads:
            results = list(threads.map(lambda _: pool.measure(MODEL, QUICK), range(12)))
        assert len(results) == 12
        assert max(most) == 1
        assert sum(status.measured for status in pool.status()) == 12

    def test_models_in_turn_have_one_device_to_themselves(self, make_pool: Any) -> None:
        devices = [ScriptedDevice(f"{n}:1") for n in "ab"]
        pool = make_pool(*devices)
        tasks = [(MODEL, QUICK), (b"another model", QUICK), (MODEL, QUICK)]
        with ThreadPoolExecutor(4) as threads:
            turns = list(threads.map(lambda _: pool.measure_in_turn(tasks), range(8)))
        assert all(len({measured.device for measured in turn}) == 1 for turn in turns)
        digests = [hashlib.sha256(model).hexdigest() for model, _ in tasks]
        assert all([measured.model_digest for measured in turn] == digests for turn in turns)

    def test_models_in_turn_move_to_another_device_together(self, make_pool: Any) -> None:
        def third(device: ScriptedDevice) -> None:
            if device.measured == 3:
                raise TROUBLE

        ill, well = ScriptedDevice("a:1", before_measure=third), ScriptedDevice("b:1")
        pool = make_pool(ill, well)
        pool._leases.close(well.address)  # the ill one is taken first
        with ThreadPoolExecutor(1) as threads:
            turn = threads.submit(pool.measure_in_turn, [(MODEL, QUICK)] * 3)
            while not ill.measured:
                time.sleep(0.001)
            pool._leases.open(well.address)
            devices = [measured.device for measured in turn.result()]
        assert len(set(devices)) == 1

    def test_what_is_urgent_goes_before_what_waits_longer(self, make_pool: Any) -> None:
        entered, leave = threading.Event(), threading.Event()
        order: list[str] = []

        def wait(device: ScriptedDevice) -> None:
            if device.measured == 1:
                entered.set()
                assert leave.wait(10)

        pool = make_pool(ScriptedDevice("a:1", before_measure=wait))

        def measure(name: str, priority: int) -> None:
            pool.measure(MODEL, QUICK, priority=priority)
            order.append(name)

        with ThreadPoolExecutor(3) as threads:
            threads.submit(measure, "first", 0)
            assert entered.wait(10)
            for waiting, name in enumerate(("low", "high"), start=1):
                threads.submit(measure, name, waiting)
                while len(pool._leases._requests) < waiting:
                    time.sleep(0.001)
            leave.set()
        assert order == ["first", "high", "low"]

    def test_status_tells_what_is_leased(self, make_pool: Any) -> None:
        seen: list[State] = []
        device = ScriptedDevice("a:1")
        pool = make_pool(device)
        device.before_measure = lambda device: seen.append(pool.status()[0].state)
        pool.measure(MODEL, QUICK)
        assert seen == [State.LEASED]
        assert pool.status()[0].state is State.IDLE


@pytest.mark.parametrize(
    ("samples", "kept"),
    [
        ([1.0, 1.0, 1.0], 1.0),
        ([1.0, 1.1, 0.9, 1.0, 50.0], 1.0),
        ([1.0, 2.0, 3.0], 2.0),
        # median 1.05, MAD 0.05: 9 and 9 are out, the median of the rest is 1.0
        ([0.9, 1.0, 1.0, 1.1, 1.05, 9.0, 9.0], 1.0),
    ],
)
def test_outliers(samples: list[float], kept: float) -> None:
    assert without_outliers(samples) == pytest.approx(kept)


class TestFaultyServers:
    """Real clients, real connections, devices that err by a seed."""

    def test_a_study_ends_with_right_results(self, faulty: Any, connect: Any) -> None:
        devices = [faulty(rate=rate, seed=seed) for seed, rate in enumerate((0.0, 0.25, 0.25))]
        timeouts = Timeouts(info_s=2, upload_s=2, measure_s=0.5)
        rules = Rules(attempts=10, poll_s=0.01, quarantine_s=0.05, acquire_s=30)
        models = [b"model %d" % number for number in range(24)]
        pool = DevicePool([connect(d.address, timeouts=timeouts) for d in devices], rules)
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(lambda model: pool.measure(model, QUICK), models))
        for model, measured in zip(models, results, strict=True):
            digest = hashlib.sha256(model).hexdigest()
            assert measured.model_digest == digest
            assert measured.latency_ms == pytest.approx(devices[0].true_latency_ms(digest))
        assert sum(status.measured for status in pool.status()) == len(models)

    def test_a_device_that_is_cut_off(self, faulty: Any, connect: Any) -> None:
        devices = [faulty(rate=1.0, faults=["delay"]) for _ in range(2)]
        rules = Rules(poll_s=0.01)
        pool = DevicePool([connect(device.address) for device in devices], rules)
        devices[0].stop()
        models = [b"model %d" % number for number in range(4)]
        with ThreadPoolExecutor(2) as threads:  # the second one gets the device that is cut off
            results = list(threads.map(lambda model: pool.measure(model, QUICK), models))
        assert all(devices[1].address in measured.device for measured in results)
        assert [status.health for status in pool.status()] == [Health.QUARANTINED, Health.GOOD]

    def test_real_workers(self, worker: Any, connect: Any) -> None:
        pool = DevicePool([connect(worker.address)], Rules(drift=10.0))
        measured = pool.measure(golden().model, replace(QUICK, repeat=20))
        assert measured.latency_ms > 0
        assert pool.status()[0].health is Health.GOOD
