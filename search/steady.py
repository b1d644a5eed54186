"""Scoring generation after generation without waiting for the slowest of each.

An evaluator that has nothing to do while the last of a generation are still under way gets the next
generation's candidates at once: the method is told what has come in, and asked again. Only the
first generation is complete before the method is asked, for all else is learnt from it.

In one process (`--actors 0`) everything has come in whenever somebody has nothing to do, so one
generation follows the other. With actors it is a matter of chance what is known when; the journal
notes it, and a run that goes on is told the same at the same points, up to where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from search.explorer import Explorer, Floats, Genomes, Spent, Stop
from search.ledger import Task

Ask = Callable[[], Genomes]
"""Proposes new genomes [N, V]; none when it has nothing left."""
Tell = Callable[[Genomes, Floats], None]
"""Takes scored genomes [N, V], in the order they were asked for, and their objectives [N, M]."""


def evolve(explorer: Explorer, ask: Ask, tell: Tell, first: str, later: str) -> None:
    """Score what is proposed and tell what came of it, until nothing new is proposed.

    Args:
        explorer: The exploration.
        ask: Proposes genomes, each one once.
        tell: Takes their objectives, `FAILED` for a genome without a score.
        first: Name of the method in the points of the first generation.
        later: The same in all others.

    Raises:
        Spent: The evaluations are spent.
        Stop: What `ask` or `tell` raised; what is under way is waited for and kept.
    """
    flow = _Flow(explorer, ask, tell, first, later)
    left = explorer.left
    explorer.session.carry_out(flow.tasks(), f"{left} candidates", left)
    flow.end()


class _Flow:
    """What is under way between a method and the evaluators."""

    def __init__(self, explorer: Explorer, ask: Ask, tell: Tell, first: str, later: str) -> None:
        self._explorer = explorer
        self._session = explorer.session
        self._ask, self._tell = ask, tell
        self._first, self._later = first, later
        self._started = self._session.asks
        self._pending: dict[bytes, tuple[Genomes, Task]] = {}  # asked for and not told, in order
        self._reason: Stop | None = None

    def tasks(self) -> Iterator[Task | None]:
        """Yield what is to be evaluated, asking the method at the last moment."""
        under_way = set[tuple[str, str]]()
        ledger = self._session.ledger
        try:
            while True:
                self._pass_on()
                genomes_NV = self._next()
                if not len(genomes_NV) and not self._pending:
                    return
                if not len(genomes_NV):  # something may come of what is under way
                    if all(task.key in ledger.results for _, task in self._pending.values()):
                        self._pass_on(everything=True)
                    else:
                        yield None
                for genome in genomes_NV:
                    _, task = self._pending[genome.tobytes()]
                    if task.key not in under_way and not self._session.knows(task):
                        self._session.check_time()
                        under_way.add(task.key)
                        yield task
        except Stop as reason:
            self._reason = reason
            self._session.asks += 1  # what comes in now comes after

    @property
    def _is_first(self) -> bool:
        """Whether the method was asked once."""
        return self._session.asks == self._started + 1

    def _next(self) -> Genomes:
        """Return new genomes, none while those of the first generation are not all known."""
        if self._is_first and self._pending:
            return np.empty((0, 0), dtype=np.int64)
        room = self._explorer.left - len(self._pending)
        if room <= 0:
            raise Spent("all evaluations are spent")
        genomes_NV = self._ask()[:room]
        if len(genomes_NV):
            self._session.asks += 1
        for genome in genomes_NV:
            self._pending[genome.tobytes()] = genome, self._explorer.task(genome)
        return genomes_NV

    def _pass_on(self, everything: bool = False) -> None:
        """Keep the results that are due and tell them to the method.

        Due are those that came in before as many asks as there were; the first generation as a
        whole.
        """
        ledger, explorer = self._session.ledger, self._explorer
        known = {key: item for key, item in self._pending.items() if item[1].key in ledger.results}
        if self._is_first and len(known) < len(self._pending) and not everything:
            return
        due = {
            key: (genome, task)
            for key, (genome, task) in known.items()
            if everything or self._is_first or ledger.asks[task.key] <= self._session.asks
        }
        if not due:
            return
        for key in due:
            del self._pending[key]
        genomes, tasks = zip(*due.values(), strict=True)
        results = [ledger.results[task.key] for task in tasks]
        explorer.take_in(genomes, tasks, results, self._first if self._is_first else self._later)
        explorer.report()
        F_NM = np.array([explorer.objectives[genome.tobytes()] for genome in genomes])
        self._tell(np.array(genomes), F_NM)

    def end(self) -> None:
        """Take in what came last.

        Raises:
            Stop: Why no more was asked for, if the method had not come to its end.
        """
        self._pass_on(everything=True)
        if self._reason is not None:
            raise self._reason
