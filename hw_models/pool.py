"""Devices that measure for us: who is well, who is free, what to do when one is not.

State (idle, leased) and health (unknown, good, quarantined) are kept apart: a device is leased only
while its health is good, and its health is good only after it has measured the golden model: it
computed what it must and was as fast as when it was registered. After any failure the health is
unknown until the golden model says otherwise; after `failures` in a row the device is quarantined
for a time that doubles.

Each measurement is bracketed by the golden model's time: when the device has become slower or
faster in between (heat, another program, another power mode) the measurement does not count and is
made again.

Several threads may call `DevicePool.measure` at once: each gets a device of its own. Leases hold
within one pool: two programs that use one device share nothing but its worker's queue, which serves
one measurement at a time.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hw_models.errors import InputError
from hw_models.golden import PROTOCOL, check_outputs, golden
from hw_models.leases import Lease, LeaseTable
from hw_models.measurement import (
    Device,
    DeviceCallError,
    DeviceInfo,
    Measurement,
    MeasureProtocol,
    Retry,
)

log = logging.getLogger(__name__)

STEADY_HINT = "Close other programs there, fix its clocks (jetson_clocks) or cool it."

Beat = Callable[[], None]
"""Says that the holder of a device is alive; raises if it has lost it."""

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation of a normal distribution is sigma / 1.4826."""

OUTLIER_SIGMAS = 3.5
"""Iglewicz and Hoaglin (1993), How to detect and handle outliers: modified z-score."""

MIN_WAIT_S = 0.01
"""Another thread may be admitting the device that is waited for."""

MAX_UPLOADS = 3
"""Of one model for one measurement: it may be damaged on its way or forgotten."""

REFERENCES = 5
"""Golden measurements in a golden check; the fastest one is the device undisturbed."""


class Health(enum.Enum):
    """What is known about a device's health."""

    UNKNOWN = "unknown"
    GOOD = "good"
    QUARANTINED = "quarantined"


class State(enum.Enum):
    """What a device does."""

    IDLE = "idle"
    LEASED = "leased"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a device is trusted.

    Attributes:
        attempts: Tries of one measurement, on whatever devices, before giving up.
        lease_s: A silent holder loses its device after this; longer than any one call.
        acquire_s: Wait for a device at most this long.
        busy_s: Wait this long for a worker whose queue is full.
        max_temperature_c: Wait while the device is hotter.
        thermal_s: Wait at most this long for it to cool down.
        poll_s: Between two looks at a device that is waited for.
        drift: Relative change of the golden model's time that is still the same device state;
            infinite for who times a reference of his own: the golden model then only shows, after
            a failure, that a device computes what it must.
        noise: Spread (sigma from MAD, relative) of the samples above which a measurement is
            made again.
        repeats: Times that one device makes a measurement again for drift or noise.
        failures: In a row, until a device is quarantined.
        quarantine_s: Of the first quarantine; each following one is twice as long.
    """

    attempts: int = 4
    lease_s: float = 900.0
    acquire_s: float = 600.0
    busy_s: float = 120.0
    max_temperature_c: float = 80.0
    thermal_s: float = 300.0
    poll_s: float = 2.0
    drift: float = 0.15
    noise: float = 0.10
    repeats: int = 3
    failures: int = 2
    quarantine_s: float = 60.0


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device as the pool sees it.

    Attributes:
        address: Of its worker.
        info: What it said last; None if it never answered.
        state: Idle or leased.
        health: What is known.
        reference_ms: Golden model at registration; None before.
        measured: Measurements that counted.
        trouble: The last failure; empty if there was none since the last golden check.
    """

    address: str
    info: DeviceInfo | None
    state: State
    health: Health
    reference_ms: float | None
    measured: int
    trouble: str


@dataclass(slots=True)
class _Member:
    """A device and what the pool remembers of it; written by the holder of its lease only."""

    device: Device
    info: DeviceInfo | None = None
    health: Health = Health.UNKNOWN
    reference_ms: float | None = None
    failures: int = 0
    quarantines: int = 0
    quarantined_until_s: float = 0.0
    measured: int = 0
    trouble: str = ""
    digests: set[str] = field(default_factory=set)


class DevicePool:
    """Measures models on whichever device is free and well.

    Args:
        devices: Connections; closed by `close`.
        rules: When a device is trusted.
        clock: Monotonic seconds.
        sleep: Waits seconds.
        seed: Of the jitter of waiting.

    Raises:
        InputError: If there is no device or two have the same address.
    """

    def __init__(
        self,
        devices: Iterable[Device],
        rules: Rules = Rules(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        seed: int = 0,
    ) -> None:
        listed = list(devices)
        self._members = {device.address: _Member(device) for device in listed}
        if not listed or len(self._members) != len(listed):
            raise InputError(
                "devices: expected at least one, each address once, got "
                f"{[device.address for device in listed]}."
            )
        self._rules = rules
        self._clock = clock
        self._sleep = sleep
        self._random = random.Random(seed)  # noqa: S311 jitter
        self._leases = LeaseTable(rules.lease_s, clock)
        self._admitting = threading.Lock()
        self._register()

    def close(self) -> None:
        """Close the connections."""
        for member in self._members.values():
            member.device.close()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of devices that ever passed the golden check."""
        infos = [m.info for m in self._members.values() if m.reference_ms is not None and m.info]
        return tuple(sorted({info.kind for info in infos}))

    def status(self) -> tuple[DeviceStatus, ...]:
        """All devices, as they are now."""
        return tuple(
            DeviceStatus(
                address=address,
                info=member.info,
                state=self._state(member),
                health=member.health,
                reference_ms=member.reference_ms,
                measured=member.measured,
                trouble=member.trouble,
            )
            for address, member in self._members.items()
        )

    def _state(self, member: _Member) -> State:
        known = member.info is not None
        leased = known and self._leases.is_leased(member.device.address)
        return State.LEASED if leased else State.IDLE

    def measure(
        self,
        model: bytes,
        protocol: MeasureProtocol,
        kind: str | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        priority: int = 0,
    ) -> Measurement:
        """Measure a model on a device of a kind, on another one if the first has trouble.

        Args:
            model: An ONNX file.
            protocol: How.
            kind: `DeviceInfo.kind`; None where all devices are of one kind.
            shapes: Of inputs that the model leaves open.
            priority: Higher goes first.

        Raises:
            InputError: If the kind is left open and there are several.
            DeviceCallError: If the model is refused, or no device could measure it.
        """
        return self.measure_in_turn([(model, protocol)], kind, shapes, priority)[0]

    def measure_in_turn(
        self,
        tasks: Sequence[tuple[bytes, MeasureProtocol]],
        kind: str | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        priority: int = 0,
    ) -> list[Measurement]:
        """Measure models one after the other on one device, which nobody else gets in between.

        If it has trouble, all of them are measured on another one.

        Args:
            tasks: ONNX files, and how.
            kind: As for `measure`, like all that follows.
            shapes: Of inputs that the models leave open.
            priority: Higher goes first.

        Raises:
            InputError: See `measure`.
            DeviceCallError: See `measure`.
        """
        self._admit_due()
        kind = self._one_kind() if kind is None else kind
        avoid: set[str] = set()
        trouble: DeviceCallError | None = None
        for _ in range(self._rules.attempts):
            lease = self._acquire(kind, priority, avoid, trouble)
            member = self._members[lease.key]
            try:
                return [
                    self._measure_on(member, lease, model, protocol, shapes)
                    for model, protocol in tasks
                ]
            except DeviceCallError as error:
                if error.retry is Retry.NEVER:
                    raise
                trouble = error
                avoid.add(lease.key)
                self._after_failure(member, lease, error)
            finally:
                self._leases.release(lease)
        assert trouble is not None
        raise DeviceCallError(
            f"{self._rules.attempts} attempts failed; the last one: {trouble.message}",
            trouble.hint or "`paretrim devices` shows how the devices are.",
            Retry.NEVER,
        )

    def _acquire(
        self, kind: str, priority: int, avoid: Iterable[str], trouble: DeviceCallError | None
    ) -> Lease:
        """Lease a device; where all are quarantined, wait for the first one whose time is over.

        Raises:
            DeviceCallError: If there is none in time; the last trouble says why.
        """
        deadline_s = self._clock() + self._rules.acquire_s
        while True:
            self._admit_due()
            left_s = deadline_s - self._clock()
            try:
                return self._leases.acquire(kind, priority, avoid, left_s)
            except DeviceCallError as error:
                due_s = min(
                    (
                        member.quarantined_until_s
                        for member in self._members.values()
                        if member.health is Health.QUARANTINED
                    ),
                    default=math.inf,
                )
                if error.retry is Retry.HERE or due_s > deadline_s:
                    if trouble is None:
                        raise
                    message = f"{error.message} The last trouble: {trouble.message}"
                    raise DeviceCallError(message, trouble.hint, Retry.NEVER) from None
            self._sleep(max(MIN_WAIT_S, due_s - self._clock()))

    # -- one measurement --------------------------------------------------------------------------

    def _measure_on(
        self,
        member: _Member,
        lease: Lease,
        model: bytes,
        protocol: MeasureProtocol,
        shapes: Mapping[str, Sequence[int]] | None,
    ) -> Measurement:
        """Measure until the device is steady and the samples agree; at last the calmest counts.

        Raises:
            DeviceCallError: If the device fails or does not become steady.
        """

        def beat() -> None:
            self._leases.heartbeat(lease)

        calmest: Measurement | None = None
        for _ in range(self._rules.repeats):
            self._wait_until_cool(member, beat)
            measurement = self._call(member, beat, model, protocol, shapes)
            steady = not measurement.throttled and self._is_steady(member, beat)
            if steady:
                calmest = min(calmest or measurement, measurement, key=relative_noise)
                if relative_noise(calmest) <= self._rules.noise:
                    break
            self._sleep(self._rules.poll_s)  # what disturbs it may go away
        if calmest is None:
            raise DeviceCallError(
                f"{member.device.address}: it was not steady: slowed down by itself, or the golden "
                f"model more than {self._rules.drift:.0%} off its {member.reference_ms:.3f} ms.",
                STEADY_HINT,
            )
        if relative_noise(calmest) > self._rules.noise:
            log.warning(
                "%s: the samples stay noisy: of %d measurements the calmest has a spread of "
                "%.1f %% of its median. %s",
                member.device.address, self._rules.repeats, 100 * relative_noise(calmest),
                STEADY_HINT,
            )  # fmt: skip
        beat()  # a result after the lease was lost does not count
        member.measured += 1
        member.failures = member.quarantines = 0
        return calmest

    def _call(
        self,
        member: _Member,
        beat: Beat,
        model: bytes,
        protocol: MeasureProtocol,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> Measurement:
        """Upload where needed and measure; wait while the worker's queue is full.

        Raises:
            DeviceCallError: If the device fails, or is another one than it was.
        """
        digest = hashlib.sha256(model).hexdigest()
        deadline_s = self._clock() + self._rules.busy_s
        uploads_left = MAX_UPLOADS
        while True:
            beat()
            try:
                if digest not in member.digests:
                    uploads_left -= 1
                    member.device.upload(model)
                    member.digests.add(digest)
                measurement = member.device.measure(digest, protocol, shapes, lambda *_: beat())
                self._check(member, measurement, digest, protocol)
                return measurement
            except DeviceCallError as error:
                member.digests.discard(digest)  # uploading what is there costs next to nothing
                if error.retry is Retry.HERE and self._clock() < deadline_s:
                    self._sleep(self._rules.poll_s * self._random.uniform(0.5, 1.5))
                elif error.retry is not Retry.UPLOAD or uploads_left <= 0:
                    raise

    def _check(
        self, member: _Member, measurement: Measurement, digest: str, protocol: MeasureProtocol
    ) -> None:
        """Take only what was asked of this device in this power mode.

        Raises:
            DeviceCallError: If it is anything else.
        """
        assert member.info is not None
        expected = (digest, protocol, member.info.power_mode)
        got = (measurement.model_digest, measurement.protocol, measurement.power_mode)
        if got != expected:
            raise DeviceCallError(f"{member.device.address}: expected {expected}, got {got}.")

    def _wait_until_cool(self, member: _Member, beat: Beat) -> None:
        """Wait while the device is hot or slowed down.

        Raises:
            DeviceCallError: If it stays so.
        """
        deadline_s = self._clock() + self._rules.thermal_s
        while True:
            info = member.device.info()
            hot = info.temperature is not None and info.temperature > self._rules.max_temperature_c
            if not hot and not info.throttled:
                return
            if self._clock() >= deadline_s:
                raise DeviceCallError(
                    f"{member.device.address}: too hot: expected at most "
                    f"{self._rules.max_temperature_c} degrees and full speed, got "
                    f"{info.temperature} degrees{' and throttled' if info.throttled else ''}.",
                    "Cool it or choose a lower power mode.",
                )
            beat()
            self._sleep(self._rules.poll_s)

    def _is_steady(self, member: _Member, beat: Beat) -> bool:
        """Whether the golden model takes what it took at registration."""
        if math.isinf(self._rules.drift):
            return True
        assert member.reference_ms is not None
        change = abs(self._reference_ms(member, beat) / member.reference_ms - 1)
        return change <= self._rules.drift

    def _reference_ms(self, member: _Member, beat: Beat) -> float:
        """Time of the golden model.

        Raises:
            DeviceCallError: If the device fails or computes wrongly.
        """
        reference = self._call(member, beat, golden().model, PROTOCOL)
        check_outputs(reference, golden().expected)
        return without_outliers(reference.samples)

    # -- health -----------------------------------------------------------------------------------

    def _register(self) -> None:
        """Admit every device that passes the golden check, all at the same time."""
        threads = [
            threading.Thread(target=self._admit, args=(member,))
            for member in self._members.values()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _admit_due(self) -> None:
        """Try the devices again whose quarantine is over; one thread does, the others go on."""
        if not self._admitting.acquire(blocking=False):
            return
        try:
            for member in self._members.values():
                quarantined = member.health is Health.QUARANTINED
                if quarantined and self._clock() >= member.quarantined_until_s:
                    self._admit(member)
        finally:
            self._admitting.release()

    def _admit(self, member: _Member) -> None:
        """Do the golden check of a closed device, which nobody else uses; open it if it passes."""
        try:
            self._golden_check(member, beat=lambda: None)
        except DeviceCallError as error:
            member.trouble = str(error)
            self._quarantine(member)
            return
        member.trouble = ""
        self._leases.open(member.device.address)

    def _golden_check(self, member: _Member, beat: Beat) -> None:
        """Make the health good.

        Raises:
            DeviceCallError: If the device does not answer, is another one than it was, computes
                wrongly or has another speed.
        """
        info = member.device.info()
        if member.info is not None and info.kind != member.info.kind:
            raise DeviceCallError(
                f"{info.address}: expected {member.info.kind!r}, got {info.kind!r}.",
                "Set the power mode it had, or start anew with this one.",
            )
        if member.info is None:
            self._leases.add(info.address, info.kind)
        member.info = info
        member.digests.clear()  # its worker may have been started anew
        time_ms = min(self._reference_ms(member, beat) for _ in range(REFERENCES))
        member.reference_ms = member.reference_ms or time_ms
        change = abs(time_ms / member.reference_ms - 1)
        if change > self._rules.drift:
            raise DeviceCallError(
                f"{info.address}: the golden model took {member.reference_ms:.3f} ms at first and "
                f"takes {time_ms:.3f} ms now.",
                STEADY_HINT,
            )
        member.health = Health.GOOD

    def _after_failure(self, member: _Member, lease: Lease, error: DeviceCallError) -> None:
        """Ask the golden model whether the device is well; quarantine it if it is not."""
        member.trouble = str(error)
        if error.retry is Retry.HERE or not self._leases.holds(lease):
            return  # others use it, which is no illness
        member.health = Health.UNKNOWN
        member.failures += 1
        if member.failures < self._rules.failures:
            try:
                self._golden_check(member, beat=lambda: self._leases.heartbeat(lease))
                return
            except DeviceCallError as worse:
                member.trouble = str(worse)
        self._quarantine(member)

    def _quarantine(self, member: _Member) -> None:
        member.health = Health.QUARANTINED
        length_s = self._rules.quarantine_s * 2.0**member.quarantines
        member.quarantined_until_s = self._clock() + length_s
        member.quarantines += 1
        if member.info is not None:
            self._leases.close(member.device.address)

    def _one_kind(self) -> str:
        """The kind of all devices.

        Raises:
            InputError: If there are several.
            DeviceCallError: If no device ever passed the golden check.
        """
        if len(self.kinds) == 1:
            return self.kinds[0]
        if self.kinds:
            raise InputError(
                f"devices of several kinds: {'; '.join(self.kinds)}.",
                "Name the kind to measure on.",
            )
        troubles = " ".join(member.trouble for member in self._members.values())
        raise DeviceCallError(f"no device is usable. {troubles}", "", Retry.NEVER)


def without_outliers(samples: Sequence[float]) -> float:
    """Median of the samples whose modified z-score is small (the MAD rule).

    Args:
        samples: [S] times of the same thing.
    """
    median = statistics.median(samples)
    sigma = MAD_TO_SIGMA * statistics.median(abs(sample - median) for sample in samples)
    return statistics.median(
        sample for sample in samples if abs(sample - median) <= OUTLIER_SIGMAS * sigma
    )


def relative_noise(measurement: Measurement) -> float:
    """Robust standard deviation of the samples relative to their median."""
    return MAD_TO_SIGMA * measurement.spread_ms / measurement.latency_ms
