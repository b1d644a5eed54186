"""Devices that measure for us: who is well, who is free, what to do when one is not.

State (idle, leased) and health (unknown, good, quarantined) are kept apart: a device is leased only
while its health is good, and its health is good only after it has measured the golden model: it
computed what it must and was as fast as when it was registered. After any failure the health is
unknown until the golden model says otherwise; after `failures` in a row the device is quarantined
for a time that doubles.

Several threads may call `DevicePool.measure` at once: each gets a device of its own. Leases hold
within one pool: two programs that use one device share nothing but its worker's queue, which serves
one measurement at a time.
"""

from __future__ import annotations

import enum
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hw_models.errors import InputError
from hw_models.leases import Lease, LeaseTable
from hw_models.measurement import (
    Device,
    DeviceCallError,
    DeviceInfo,
    Measurement,
    MeasureProtocol,
    Retry,
)
from hw_models.member import DEFAULT_RULES, Beat, Health, Member, Rules

MIN_WAIT_S = 0.01
"""Another thread may be admitting the device that is waited for."""


class State(enum.Enum):
    """What a device does."""

    IDLE = "idle"
    LEASED = "leased"


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
        rules: Rules = DEFAULT_RULES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        seed: int = 0,
    ) -> None:
        listed = list(devices)
        jitter = random.Random(seed)  # noqa: S311
        self._members = {
            device.address: Member(device, rules, clock, sleep, jitter) for device in listed
        }
        if not listed or len(self._members) != len(listed):
            raise InputError(
                "devices: expected at least one, each address once, got "
                f"{[device.address for device in listed]}."
            )
        self._rules = rules
        self._clock = clock
        self._sleep = sleep
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

    def _state(self, member: Member) -> State:
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
                beat = partial(self._leases.heartbeat, lease)
                return [member.measure(model, protocol, beat, shapes) for model, protocol in tasks]
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

    def _admit(self, member: Member) -> None:
        """Do the golden check of a closed device, which nobody else uses; open it if it passes."""
        try:
            self._golden_check(member, beat=lambda: None)
        except DeviceCallError as error:
            member.trouble = str(error)
            self._quarantine(member)
            return
        member.trouble = ""
        self._leases.open(member.device.address)

    def _golden_check(self, member: Member, beat: Beat) -> None:
        """Make the health of a device good; one that never answered before gets its leases.

        Raises:
            DeviceCallError: See `Member.check`.
        """
        info = member.device.info()
        if member.info is None:
            self._leases.add(info.address, info.kind)
        member.check(info, beat)

    def _after_failure(self, member: Member, lease: Lease, error: DeviceCallError) -> None:
        """Ask the golden model whether the device is well; quarantine it if it is not."""
        member.trouble = str(error)
        if error.retry is Retry.HERE or not self._leases.holds(lease):
            return  # others use it, which is no illness
        member.health = Health.UNKNOWN
        member.failures += 1
        if member.failures < self._rules.failures:
            try:
                self._golden_check(member, partial(self._leases.heartbeat, lease))
                return
            except DeviceCallError as worse:
                member.trouble = str(worse)
        self._quarantine(member)

    def _quarantine(self, member: Member) -> None:
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
