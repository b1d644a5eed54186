import threading
import time

import pytest
from paretrim_worker.errors import Busy, Cancelled, TimedOut
from paretrim_worker.turnstile import Turnstile


class Caller(threading.Thread):
    """Takes a turn in a thread; `entered` and `leave` are seen and set by the test."""

    def __init__(self, turnstile, order, seconds=10.0):
        super().__init__(daemon=True)
        self.ticket = turnstile.ticket()
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.error = None
        self._turnstile = turnstile
        self._order = order
        self._deadline_s = time.monotonic() + seconds

    def run(self):
        try:
            with self._turnstile.turn(self.ticket, self._deadline_s):
                self._order.append(self)
                self.entered.set()
                self.leave.wait(10)
        except Exception as error:
            self.error = error


def started(turnstile, order, **options):
    """A caller that is in the queue."""
    caller = Caller(turnstile, order, **options)
    line = turnstile.waiting + turnstile.busy
    caller.start()
    while turnstile.waiting + turnstile.busy == line:
        time.sleep(0.001)
    return caller


def test_first_come_first_served():
    turnstile, order = Turnstile(limit=3), []
    callers = [started(turnstile, order) for _ in range(4)]
    for caller in callers:
        assert caller.entered.wait(5)
        assert order[-1] is caller
        caller.leave.set()
    for caller in callers:
        caller.join(5)
    assert order == callers
    assert not turnstile.busy


def test_refuses_at_once_when_the_queue_is_full():
    turnstile, order = Turnstile(limit=1), []
    inside, waiting = started(turnstile, order), started(turnstile, order)
    with pytest.raises(Busy, match="1 calls wait"), turnstile.turn(turnstile.ticket(), 1e9):
        pass
    inside.leave.set()
    waiting.leave.set()
    waiting.join(5)
    assert waiting.error is None


def test_a_cancelled_caller_leaves_the_queue():
    turnstile, order = Turnstile(limit=2), []
    inside, gone, last = (started(turnstile, order) for _ in range(3))
    gone.ticket.cancel()
    gone.join(5)
    assert isinstance(gone.error, Cancelled)
    inside.leave.set()
    assert last.entered.wait(5)
    last.leave.set()


def test_a_deadline_ends_the_wait():
    turnstile, order = Turnstile(limit=2), []
    inside = started(turnstile, order)
    with pytest.raises(TimedOut), turnstile.turn(turnstile.ticket(), time.monotonic() + 0.05):
        pass
    assert turnstile.waiting == 0
    inside.leave.set()


def test_an_error_inside_lets_the_next_one_in():
    turnstile = Turnstile(limit=1)
    with pytest.raises(ZeroDivisionError), turnstile.turn(turnstile.ticket(), 1e9):
        raise ZeroDivisionError
    with turnstile.turn(turnstile.ticket(), time.monotonic() + 1):
        assert turnstile.busy
