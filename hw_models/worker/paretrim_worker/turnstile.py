"""One call at a time, first come first served, with a bounded queue."""

import collections
import contextlib
import threading
import time
from typing import Callable, Deque, Iterator

from paretrim_worker.errors import Busy, Cancelled, TimedOut


class Ticket:
    """One call's place in the queue; its owner may give up from another thread."""

    def __init__(self, turnstile: "Turnstile") -> None:
        self._turnstile = turnstile
        self.cancelled = False

    def cancel(self) -> None:
        """Give up waiting."""
        with self._turnstile.changed:
            self.cancelled = True
            self._turnstile.changed.notify_all()


class Turnstile:
    """Lets one ticket in at a time.

    Args:
        limit: Tickets that may wait behind the one inside.
        clock: Monotonic seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.changed = threading.Condition()
        self._clock = clock
        self._line: Deque[Ticket] = collections.deque()  # the first one is inside

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return max(0, len(self._line) - 1)

    @property
    def busy(self) -> bool:
        """Whether somebody is inside."""
        return bool(self._line)

    def ticket(self) -> Ticket:
        """A ticket that is not in the queue yet."""
        return Ticket(self)

    @contextlib.contextmanager
    def turn(self, ticket: Ticket, deadline_s: float) -> Iterator[None]:
        """Wait for the ticket's turn, hold it while the context lasts.

        Args:
            ticket: From `ticket()`.
            deadline_s: When to give up, on the clock.

        Raises:
            Busy: At once, if the queue is full.
            TimedOut: If the turn does not come before the deadline.
            Cancelled: If the ticket is cancelled while it waits.
        """
        with self.changed:
            if len(self._line) > self.limit:
                raise Busy(
                    "the queue is full: {} calls wait already; try again later".format(self.waiting)
                )
            self._line.append(ticket)
        try:
            self._wait(ticket, deadline_s)
            yield
        finally:
            with self.changed:
                self._line.remove(ticket)
                self.changed.notify_all()

    def _wait(self, ticket: Ticket, deadline_s: float) -> None:
        with self.changed:
            while not ticket.cancelled and self._line[0] is not ticket:
                left_s = deadline_s - self._clock()
                if left_s <= 0:
                    raise TimedOut("the call's deadline passed while it waited for its turn")
                self.changed.wait(left_s)
            if ticket.cancelled:
                raise Cancelled("the client went away while its call waited")
