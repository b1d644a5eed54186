"""One device that measures for us: steady, calm, and computing what it must.

Each measurement is bracketed by the golden model's time: when the device has become slower or
faster in between (heat, another program, another power mode) the measurement does not count and is
made again.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hw_models.golden import PROTOCOL, check_outputs, golden
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

MAX_UPLOADS = 3
"""Of one model for one measurement: it may be damaged on its way or forgotten."""

REFERENCES = 5
"""Golden measurements in a golden check; the fastest one is the device undisturbed."""


class Health(enum.Enum):
    """What is known about a device's health."""

    UNKNOWN = "unknown"
    GOOD = "good"
    QUARANTINED = "quarantined"


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


DEFAULT_RULES = Rules()


class Member:
    """A device and what is remembered of it; used by one thread at a time.

    Args:
        device: The connection.
        rules: When the device is trusted.
        clock: Monotonic seconds.
        sleep: Waits seconds.
        jitter: Of waiting.

    Attributes:
        info: What it said last; None if it never answered.
        health: What is known.
        reference_ms: Golden model at registration; None before.
        failures: In a row.
        quarantines: In a row.
        quarantined_until_s: On the clock; of the last quarantine.
        measured: Measurements that counted.
        trouble: The last failure; empty if there was none since the last golden check.
    """

    def __init__(
        self,
        device: Device,
        rules: Rules,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        jitter: random.Random,
    ) -> None:
        self.device = device
        self.info: DeviceInfo | None = None
        self.health = Health.UNKNOWN
        self.reference_ms: float | None = None
        self.failures = 0
        self.quarantines = 0
        self.quarantined_until_s = 0.0
        self.measured = 0
        self.trouble = ""
        self._rules = rules
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._digests: set[str] = set()  # of models that its worker has

    def measure(
        self,
        model: bytes,
        protocol: MeasureProtocol,
        beat: Beat,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> Measurement:
        """Measure until the device is steady and the samples agree; at last the calmest counts.

        Args:
            model: An ONNX file.
            protocol: How.
            beat: Called again and again; raises to give up.
            shapes: Of inputs that the model leaves open.

        Raises:
            DeviceCallError: If the device fails or does not become steady.
        """
        calmest: Measurement | None = None
        for _ in range(self._rules.repeats):
            self._wait_until_cool(beat)
            measurement = self._call(beat, model, protocol, shapes)
            steady = not measurement.throttled and self._is_steady(beat)
            if steady:
                calmest = min(calmest or measurement, measurement, key=relative_noise)
                if relative_noise(calmest) <= self._rules.noise:
                    break
            self._sleep(self._rules.poll_s)  # what disturbs it may go away
        if calmest is None:
            raise DeviceCallError(
                f"{self.device.address}: it was not steady: slowed down by itself, or the golden "
                f"model more than {self._rules.drift:.0%} off its {self.reference_ms:.3f} ms.",
                STEADY_HINT,
            )
        if relative_noise(calmest) > self._rules.noise:
            log.warning(
                "%s: the samples stay noisy: of %d measurements the calmest has a spread of "
                "%.1f %% of its median. %s",
                self.device.address, self._rules.repeats, 100 * relative_noise(calmest),
                STEADY_HINT,
            )  # fmt: skip
        beat()  # a result after the lease was lost does not count
        self.measured += 1
        self.failures = self.quarantines = 0
        return calmest

    def check(self, info: DeviceInfo, beat: Beat) -> None:
        """Do the golden check: make the health good.

        Args:
            info: What the device says now.
            beat: As for `measure`.

        Raises:
            DeviceCallError: If the device does not answer, is another one than it was, computes
                wrongly or has another speed.
        """
        if self.info is not None and info.kind != self.info.kind:
            raise DeviceCallError(
                f"{info.address}: expected {self.info.kind!r}, got {info.kind!r}.",
                "Set the power mode it had, or start anew with this one.",
            )
        self.info = info
        self._digests.clear()  # its worker may have been started anew
        time_ms = min(self._reference_ms(beat) for _ in range(REFERENCES))
        self.reference_ms = self.reference_ms or time_ms
        change = abs(time_ms / self.reference_ms - 1)
        if change > self._rules.drift:
            raise DeviceCallError(
                f"{info.address}: the golden model took {self.reference_ms:.3f} ms at first and "
                f"takes {time_ms:.3f} ms now.",
                STEADY_HINT,
            )
        self.health = Health.GOOD

    def _call(
        self,
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
                if digest not in self._digests:
                    uploads_left -= 1
                    self.device.upload(model)
                    self._digests.add(digest)
                measurement = self.device.measure(digest, protocol, shapes, lambda *_: beat())
                self._accept(measurement, digest, protocol)
                return measurement
            except DeviceCallError as error:
                self._digests.discard(digest)  # uploading what is there costs next to nothing
                if error.retry is Retry.HERE and self._clock() < deadline_s:
                    self._sleep(self._rules.poll_s * self._jitter.uniform(0.5, 1.5))
                elif error.retry is not Retry.UPLOAD or uploads_left <= 0:
                    raise

    def _accept(self, measurement: Measurement, digest: str, protocol: MeasureProtocol) -> None:
        """Take only what was asked of this device in this power mode.

        Raises:
            DeviceCallError: If it is anything else.
        """
        assert self.info is not None
        expected = (digest, protocol, self.info.power_mode)
        got = (measurement.model_digest, measurement.protocol, measurement.power_mode)
        if got != expected:
            raise DeviceCallError(f"{self.device.address}: expected {expected}, got {got}.")

    def _wait_until_cool(self, beat: Beat) -> None:
        """Wait while the device is hot or slowed down.

        Raises:
            DeviceCallError: If it stays so.
        """
        deadline_s = self._clock() + self._rules.thermal_s
        while True:
            info = self.device.info()
            hot = info.temperature is not None and info.temperature > self._rules.max_temperature_c
            if not hot and not info.throttled:
                return
            if self._clock() >= deadline_s:
                raise DeviceCallError(
                    f"{self.device.address}: too hot: expected at most "
                    f"{self._rules.max_temperature_c} degrees and full speed, got "
                    f"{info.temperature} degrees{' and throttled' if info.throttled else ''}.",
                    "Cool it or choose a lower power mode.",
                )
            beat()
            self._sleep(self._rules.poll_s)

    def _is_steady(self, beat: Beat) -> bool:
        """Whether the golden model takes what it took at registration."""
        if math.isinf(self._rules.drift):
            return True
        assert self.reference_ms is not None
        change = abs(self._reference_ms(beat) / self.reference_ms - 1)
        return change <= self._rules.drift

    def _reference_ms(self, beat: Beat) -> float:
        """Time of the golden model.

        Raises:
            DeviceCallError: If the device fails or computes wrongly.
        """
        reference = self._call(beat, golden().model, PROTOCOL)
        check_outputs(reference, golden().expected)
        return without_outliers(reference.samples)


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
