"""Leases: single cases, and a state machine over random histories with a clock of its own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hw_models.leases import Lease, LeaseTable, Request
from hw_models.measurement import DeviceCallError, Retry

LEASE_S = 10.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> LeaseTable:
    """Two devices of kind tx2, one of kind nx."""
    table = LeaseTable(LEASE_S, clock)
    for key, kind in (("a", "tx2"), ("b", "tx2"), ("c", "nx")):
        table.add(key, kind)
        table.open(key)
    return table


def leased(table: LeaseTable, kind: str = "tx2", **options: object) -> Lease:
    lease = table.poll(table.request(kind, **options))  # type: ignore[arg-type]
    assert lease is not None
    return lease


def test_a_lease_is_exclusive(table: LeaseTable) -> None:
    assert {leased(table).key, leased(table).key} == {"a", "b"}
    assert table.poll(table.request("tx2")) is None
    assert leased(table, "nx").key == "c"


def test_priority_then_first_come_first_served(table: LeaseTable) -> None:
    holder = leased(table, "nx")
    late, first, second = (table.request("nx", priority) for priority in (0, 5, 5))
    waiting, served = [late, second, first], []
    for _ in range(3):
        table.release(holder)
        for request in list(waiting):
            if lease := table.poll(request):
                waiting.remove(request)
                served.append(request)
                holder = lease
    assert served == [first, second, late]


def test_a_silent_holder_loses_its_lease(table: LeaseTable, clock: Clock) -> None:
    lost = leased(table, "nx")
    clock.now_s = LEASE_S - 0.1
    table.heartbeat(lost)
    clock.now_s = 2 * LEASE_S - 0.2
    assert table.holds(lost)
    clock.now_s = 2 * LEASE_S
    following = leased(table, "nx")
    with pytest.raises(DeviceCallError, match="lost"):
        table.heartbeat(lost)
    table.release(lost)  # does not touch the new holder
    assert table.holds(following)


def test_a_device_that_is_avoided_is_taken_if_it_is_the_only_one(table: LeaseTable) -> None:
    assert leased(table, avoid={"a"}).key == "b"
    request = table.request("tx2", avoid={"a"})
    assert table.poll(request) is None  # waits for b
    table.close("b")
    lease = table.poll(request)
    assert lease is not None
    assert lease.key == "a"


def test_a_closed_device_is_not_leased_but_its_lease_runs_on(table: LeaseTable) -> None:
    lease = leased(table, "nx")
    table.close("c")
    table.heartbeat(lease)
    with pytest.raises(DeviceCallError, match="usable") as caught:
        table.poll(table.request("nx"))
    assert caught.value.retry is Retry.NEVER


def test_waiting_ends_when_a_lease_is_given_back(table: LeaseTable) -> None:
    holder = leased(table, "nx")
    timer = threading.Timer(0.05, table.release, args=(holder,))
    timer.start()
    assert table.acquire("nx", timeout_s=5).key == "c"
    timer.join()


def test_waiting_ends_when_no_device_is_left(table: LeaseTable) -> None:
    leased(table, "nx")
    timer = threading.Timer(0.05, table.close, args=("c",))
    timer.start()
    with pytest.raises(DeviceCallError, match="usable"):
        table.acquire("nx", timeout_s=5)
    timer.join()


def test_waiting_ends_in_time(table: LeaseTable) -> None:
    holder = leased(table, "nx")
    with pytest.raises(DeviceCallError, match="came free"):
        table.acquire("nx", timeout_s=0.05)
    table.release(holder)
    assert leased(table, "nx")  # the request that gave up holds nothing


def test_a_withdrawn_request_lets_the_next_one_go(table: LeaseTable) -> None:
    first, second = table.request("nx"), table.request("nx")
    assert table.poll(second) is None  # the first one's turn
    table.withdraw(first)
    assert table.poll(second) is not None


class Leases(RuleBasedStateMachine):
    """Random histories of three devices.

    The model keeps, for each device, the last lease granted and when it ends.
    """

    waiting = Bundle("waiting")
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = LeaseTable(LEASE_S, self.clock)
        self.kinds = {"a": "tx2", "b": "tx2", "c": "nx"}
        self.open = dict.fromkeys(self.kinds, True)
        self.current: dict[str, tuple[Lease, float]] = {}
        self.pending: list[Request] = []
        for key, kind in self.kinds.items():
            self.table.add(key, kind)
            self.table.open(key)

    def holder(self, key: str) -> Lease | None:
        lease, ends_s = self.current.get(key, (None, 0.0))
        return lease if self.clock.now_s < ends_s else None

    @rule(target=waiting, kind=st.sampled_from(["tx2", "nx"]), priority=st.integers(0, 2))
    def ask(self, kind: str, priority: int) -> Request:
        request = self.table.request(kind, priority)
        self.pending.append(request)
        return request

    @rule(target=held, request=waiting)
    def poll(self, request: Request) -> Lease | None:
        if request not in self.pending:
            return None
        usable = [key for key in self.kinds if self.open[key] and self.kinds[key] == request.kind]
        free = [key for key in usable if self.holder(key) is None]
        try:
            lease = self.table.poll(request)
        except DeviceCallError:
            assert not usable
            return None
        before = [r for r in self.pending if r.kind == request.kind and r.order < request.order]
        assert (lease is not None) == (len(free) > len(before))
        if lease is None:
            return None
        assert lease.key in free
        self.pending.remove(request)
        self.current[lease.key] = (lease, self.clock.now_s + LEASE_S)
        return lease

    @rule(request=consumes(waiting))
    def withdraw(self, request: Request) -> None:
        if request in self.pending:
            self.pending.remove(request)
            self.table.withdraw(request)

    @rule(lease=held)
    def heartbeat(self, lease: Lease | None) -> None:
        if lease is None:
            return
        if self.holder(lease.key) == lease:
            self.table.heartbeat(lease)
            self.current[lease.key] = (lease, self.clock.now_s + LEASE_S)
        else:
            with pytest.raises(DeviceCallError, match="lost"):
                self.table.heartbeat(lease)

    @rule(lease=held)
    def release(self, lease: Lease | None) -> None:
        if lease is not None:
            self.table.release(lease)
            if self.holder(lease.key) == lease:
                del self.current[lease.key]

    @rule(seconds=st.sampled_from([0.5, 4.0, LEASE_S, 3 * LEASE_S]))
    def time_goes_on(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(key=st.sampled_from(["a", "b", "c"]), is_open=st.booleans())
    def open_or_close(self, key: str, is_open: bool) -> None:
        (self.table.open if is_open else self.table.close)(key)
        self.open[key] = is_open

    @invariant()
    def every_good_lease_is_held_by_one(self) -> None:
        for key in self.kinds:
            lease = self.holder(key)
            if lease is not None:
                assert self.table.holds(lease)
                assert self.table.is_leased(key)


TestLeaseHistories = Leases.TestCase
TestLeaseHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
