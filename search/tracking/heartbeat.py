"""Once a minute: how does the run stand? And tell all trackers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from search.explorer import Session
from search.tracking.state import State, Tracker

log = logging.getLogger(__name__)

EVERY_S = 60.0


class Heartbeat:
    """A thread that beats while the context lasts, and once more at its end.

    Args:
        session: What to tell of. It is only read.
        trackers: Whom to tell.
        every_s: Time between beats.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        session: Session,
        trackers: Sequence[Tracker],
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._trackers = trackers
        self._every_s = every_s
        self._clock = clock
        self._start = self._last = clock()
        self._busy_s = session.busy_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def beat(self) -> None:
        """Tell all trackers how the run stands now."""
        state = self._take()
        for tracker in self._trackers:
            _try(tracker, partial(tracker.report, state))

    def _take(self) -> State:
        now, session = self._clock(), self._session
        actors = session.pool.size
        offered_s = (now - self._last) * actors
        busy = (session.busy_s - self._busy_s) / offered_s if offered_s > 0 else 0.0
        self._last, self._busy_s = now, session.busy_s
        return State(
            seconds=now - self._start,
            evaluations=session.evaluations,
            failures=session.failures.total(),
            actors=actors,
            busy=min(1.0, busy),
            hypervolume=session.status.hypervolume,
            best=session.status.map50_95,
        )

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.beat()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self.beat()
        for tracker in self._trackers:
            _try(tracker, tracker.close)


def _try(tracker: Tracker, tell: Callable[[], None]) -> None:
    try:
        tell()
    except Exception as error:  # foreign libraries, networks: anything
        name = type(tracker).__name__
        log.warning("%s: %s: %s; the search goes on", name, type(error).__name__, error)
