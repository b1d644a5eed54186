"""Who may use which device now: exclusive leases that end by themselves.

One holder a device. A lease lasts `lease_s` and starts anew at each heartbeat; a holder that is
silent for longer has lost it, whatever it still does, and `heartbeat` tells it so. Requests are
served by priority, then first come first served, by any free device of the kind asked for.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hw_models.measurement import DeviceCallError, Retry


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use one device.

    Attributes:
        key: Of the device.
        number: No two leases have the same.
    """

    key: str
    number: int


@dataclass(frozen=True, slots=True)
class Request:
    """A wish for any device of a kind; the smaller `order`, the sooner it is served."""

    kind: str
    order: tuple[int, int]
    avoid: frozenset[str]


@dataclass(slots=True)
class _Slot:
    """One device."""

    kind: str
    is_open: bool = False
    lease: Lease | None = None
    expires_s: float = 0.0


@dataclass(slots=True)
class LeaseTable:
    """Devices, leases and requests.

    Args:
        lease_s: A lease ends so long after its last heartbeat.
        clock: Monotonic seconds.
    """

    lease_s: float
    clock: Callable[[], float] = time.monotonic
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _requests: list[Request] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def add(self, key: str, kind: str) -> None:
        """Add a device, closed at first."""
        with self._changed:
            self._slots[key] = _Slot(kind)

    def open(self, key: str) -> None:
        """Let a device be leased."""
        with self._changed:
            self._slots[key].is_open = True
            self._changed.notify_all()

    def close(self, key: str) -> None:
        """Let a device not be leased any more; a lease that runs is not touched."""
        with self._changed:
            self._slots[key].is_open = False
            self._changed.notify_all()  # who waits for the last device of a kind gives up

    def request(self, kind: str, priority: int = 0, avoid: Iterable[str] = ()) -> Request:
        """Ask for a device.

        Args:
            kind: What kind.
            priority: Higher goes first.
            avoid: Devices not wanted, as long as another one of the kind is open.
        """
        with self._changed:
            request = Request(kind, (-priority, next(self._numbers)), frozenset(avoid))
            self._requests.append(request)
            return request

    def poll(self, request: Request) -> Lease | None:
        """The request's lease, if its turn has come; the request is served then.

        Raises:
            DeviceCallError: If no device of the kind is open.
        """
        with self._changed:
            assert request in self._requests, "served or withdrawn already"
            self._expire()
            if not self._open_keys(request.kind):
                raise DeviceCallError(
                    f"no device of the kind {request.kind!r} is usable.",
                    "`paretrim devices` shows why.",
                    Retry.NEVER,
                )
            key = self._turn(request)
            if key is None:
                return None
            self._requests.remove(request)
            lease = Lease(key, next(self._numbers))
            slot = self._slots[key]
            slot.lease, slot.expires_s = lease, self.clock() + self.lease_s
            return lease

    def withdraw(self, request: Request) -> None:
        """Take a request back; nothing happens if it was served."""
        with self._changed:
            if request in self._requests:
                self._requests.remove(request)
                self._changed.notify_all()

    def acquire(
        self, kind: str, priority: int = 0, avoid: Iterable[str] = (), timeout_s: float = 3600.0
    ) -> Lease:
        """Wait for a device.

        Raises:
            DeviceCallError: If no device of the kind is open, or none comes free in time.
        """
        request = self.request(kind, priority, avoid)
        deadline_s = time.monotonic() + timeout_s
        try:
            with self._changed:
                while (lease := self.poll(request)) is None:
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise DeviceCallError(
                            f"no device of the kind {kind!r} came free in {timeout_s:.0f} s.",
                            "Add a device or wait for the others.",
                            Retry.HERE,
                        )
                    # Leases end on the clock without anybody telling: look again now and then.
                    self._changed.wait(min(left_s, 1.0))
                return lease
        finally:
            self.withdraw(request)

    def heartbeat(self, lease: Lease) -> None:
        """Say that the holder is alive.

        Raises:
            DeviceCallError: If the lease is lost: what the holder has measured does not count.
        """
        with self._changed:
            if not self.holds(lease):
                raise DeviceCallError(f"the lease of {lease.key!r} was lost: it was silent.")
            self._slots[lease.key].expires_s = self.clock() + self.lease_s

    def holds(self, lease: Lease) -> bool:
        """Whether the lease is still good."""
        with self._changed:
            self._expire()
            return self._slots[lease.key].lease == lease

    def release(self, lease: Lease) -> None:
        """Give a device back; nothing happens if the lease was lost."""
        with self._changed:
            if self._slots[lease.key].lease == lease:
                self._slots[lease.key].lease = None
                self._changed.notify_all()

    def is_leased(self, key: str) -> bool:
        """Whether somebody holds a device."""
        with self._changed:
            self._expire()
            return self._slots[key].lease is not None

    def _open_keys(self, kind: str) -> list[str]:
        return [key for key, slot in self._slots.items() if slot.is_open and slot.kind == kind]

    def _expire(self) -> None:
        now_s = self.clock()
        for slot in self._slots.values():
            if slot.lease is not None and now_s >= slot.expires_s:
                slot.lease = None

    def _turn(self, request: Request) -> str | None:
        """The device for a request; what those before it in the queue will take is left to them."""
        taken: set[str] = set()
        for other in sorted(self._requests, key=lambda waiting: waiting.order):
            usable = self._open_keys(other.kind)
            wanted = [key for key in usable if key not in other.avoid] or usable
            free = [key for key in wanted if self._slots[key].lease is None and key not in taken]
            if other == request:
                return free[0] if free else None
            taken.update(free[:1])
        return None
