from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from rich.progress import Progress

from evaluators.score import Failed
from search.explorer import Session
from search.ledger import Outcome
from search.tracking.heartbeat import Heartbeat
from search.tracking.log_line import LogLine
from search.tracking.state import State
from tests.search.test_ledger import outcome
from tests.search.toys import FormulaPool, MemoryLedger, additive, explore, toy_problem


@dataclass
class Listener:
    states: list[State] = field(default_factory=list)
    closed: bool = False

    def report(self, state: State) -> None:
        self.states.append(state)

    def close(self) -> None:
        self.closed = True


class Broken:
    def report(self, state: State) -> None:
        raise ConnectionError("nobody there")

    def close(self) -> None:
        raise ConnectionError("still nobody there")


@dataclass
class TwoActors:
    """Evaluations that take 4 s of an actor each."""

    size: int = 2

    def run(self, tasks: Any) -> Any:
        for number, task in enumerate(tasks):
            result = Failed("crash", "died", retryable=False) if number == 1 else outcome(8).result
            yield Outcome(task, result, 4.0, "here")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def session_of(pool: Any) -> Session:
    return Session(cast("Any", MemoryLedger()), pool, Progress(disable=True))


def test_a_beat_tells_what_was_done_since_the_last_one() -> None:
    session, listener, clock = session_of(TwoActors()), Listener(), Clock()
    heart = Heartbeat(session, [listener], clock=clock)
    session.results([outcome(8 * number).task.candidate for number in (1, 2, 3)], "subset", "three")
    clock.now += 10.0
    heart.beat()
    clock.now += 10.0
    heart.beat()
    busy, idle = listener.states
    assert (busy.evaluations, busy.failures, busy.actors) == (3, 1, 2)
    assert busy.busy == pytest.approx(12 / 20)  # three times 4 s, of 10 s of two actors
    assert (idle.seconds, idle.evaluations, idle.busy) == (20.0, 3, 0.0)


def test_what_is_known_is_not_counted_again() -> None:
    session = session_of(TwoActors())
    candidates = [outcome(8).task.candidate]
    for _ in range(2):
        session.results(candidates, "subset", "one")
    assert session.evaluations == 1


def test_a_search_tells_its_front() -> None:
    problem = toy_problem(latency=("95%", "70%"), method="random", evals=20)
    session = explore(problem, additive(problem)).session
    assert session.evaluations == 20
    assert 0 < session.status.hypervolume < 1
    assert set(session.status.best) == {"95%", "70%"}
    assert isinstance(session.pool, FormulaPool)


def test_it_beats_by_itself_and_once_more_at_the_end() -> None:
    listener = Listener()
    with Heartbeat(session_of(TwoActors()), [listener], every_s=0.01) as heart:
        heart._thread.join(0.2)
        assert len(listener.states) >= 1
        before = len(listener.states)
    assert len(listener.states) > before
    assert listener.closed


def test_a_tracker_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with Heartbeat(session_of(TwoActors()), [Broken(), listener], every_s=3600):
        pass
    assert len(listener.states) == 1
    assert listener.closed
    assert Counter("nobody there" in r.message for r in caplog.records)[True] == 2


def test_the_heartbeat_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LogLine().report(State(61.2, 30, 2, 4, 0.875, 0.1234, {"30ms": 0.5}))
    assert "61 s, 30 evaluations, 2 failed, 4 actors busy 88 %" in caplog.text
    assert "hypervolume 0.1234" in caplog.text
