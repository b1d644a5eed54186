"""A running search at a glance: one table, on the terminal that runs it and on any other.

Everything is read from the run folder, which may lie on a network drive or be a mirror: counts,
pace, failures and workers from the journal, the best points from `status.json`, which the search
writes after each generation.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from hw_models.errors import InputError
from search.progress import progress_bar
from search.run_folder import RunFolder
from search.status import Status, read_status

RECENT = 40  # evaluations that the pace is taken from
QUIET_S = 120.0  # without a new line before a run is said to be silent
SHOWN_WORKERS = 8
REFRESH_S = 2.0


@dataclass(slots=True)
class Tail:
    """Follows a journal: each line is read once, a line that is not whole yet later.

    Attributes:
        path: The journal.
        rungs: Evaluations by rung.
        failures: By kind.
        workers: Evaluations by who did them.
        measured: Measurements by device.
        times: Unix times of the last evaluations on the subset.
        last: Unix time of the last line.
    """

    path: Path
    rungs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    measured: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    last: float | None = None
    _at: int = 0

    def follow(self) -> None:
        """Read what is new; a journal that is not there yet has nothing new."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return
        self._at += sum(len(line) + 1 for line in lines)
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # damage is for those to report who use the results

    def _take(self, record: dict[str, Any]) -> None:
        if "measured" in record:
            self.measured[str(record["measured"].get("device", record["how"]))] += 1
        elif "rung" in record:
            self.rungs[record["rung"]] += 1
            self.workers[record["where"]] += 1
            if "failed" in record["result"]:
                self.failures[record["result"]["failed"]["kind"]] += 1
            if record["rung"] == "subset":
                self.times = [*self.times[-RECENT:], float(record["time"])]
        self.last = float(record.get("time", self.last or 0.0)) or self.last


class View:
    """The table of a run, up to date whenever it is drawn.

    Args:
        run: Which.
        clock: Unix time.
    """

    def __init__(self, run: RunFolder, clock: Callable[[], float] = time.time) -> None:
        self._run = run
        self._clock = clock
        self._tail = Tail(run.journal)

    def __rich__(self) -> Table:
        """Draw."""
        self._tail.follow()
        status = read_status(self._run)
        table = Table(title=str(self._run.path), show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, text in self._rows(status):
            table.add_row(name, text)
        return table

    @property
    def finished(self) -> bool:
        """Whether the search has ended, in whatever way."""
        try:
            return self._run.report_data.stat().st_mtime >= self._run.journal.stat().st_mtime
        except OSError:
            return False

    def _rows(self, status: Status | None) -> Iterator[tuple[str, str]]:
        tail = self._tail
        yield "stage", self._stage()
        if status is not None:
            yield "candidates", f"{status.scored} of {status.evals}{self._time_left(status)}"
            for budget, best in status.best.items():
                yield (
                    f"best {budget}",
                    "none yet"
                    if best is None
                    else (f"mAP50-95 {best.map50_95:.3f} at {best.latency_ms:.2f} ms predicted"),
                )
            yield "hypervolume", f"{status.hypervolume:.4f}"
        failures = ", ".join(f"{count} {kind}" for kind, count in tail.failures.items())
        yield "failures", failures or "none"
        yield "evaluations", ", ".join(f"{count} {rung}" for rung, count in tail.rungs.items())
        shown = tail.workers.most_common(SHOWN_WORKERS)
        more = len(tail.workers) - len(shown)
        workers = ", ".join(f"{where} {count}" for where, count in shown)
        yield "workers", f"{workers}{f' and {more} more' if more else ''}"
        if tail.measured:
            yield "devices", ", ".join(f"{name} {count}" for name, count in tail.measured.items())

    def _stage(self) -> str:
        if self.finished:
            return "finished"
        tail = self._tail
        if tail.last is None:
            return "starting"
        doing = "verifying" if tail.rungs["full"] and tail.rungs["subset"] and (
            self._ends_with_full()
        ) else ("searching" if tail.rungs["subset"] else "probing")  # fmt: skip
        silent_s = self._clock() - tail.last
        return f"{doing}, silent for {silent_s:.0f} s" if silent_s > QUIET_S else doing

    def _ends_with_full(self) -> bool:
        return bool(self._tail.times) and (self._tail.last or 0.0) > self._tail.times[-1]

    def _time_left(self, status: Status) -> str:
        times = self._tail.times
        if self.finished or len(times) < 3 or status.scored >= status.evals:
            return ""
        gaps = [after - before for before, after in pairwise(times)]
        left_s = statistics.fmean(gaps) * (status.evals - status.scored)
        return f", at most {_duration(left_s)} to go at this pace, then verification"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"


@contextmanager
def live_view(console: Console, run: RunFolder) -> Iterator[Progress]:
    """Show a run and its progress on a terminal as long as the context lasts; elsewhere nothing.

    Yields:
        The progress, to be told what goes on.
    """
    progress = progress_bar(console)
    if not console.is_terminal:
        yield progress
        return
    with Live(Group(View(run), progress), console=console, transient=True, refresh_per_second=1):
        yield progress


def watch_run(folder: Path, console: Console, once: bool) -> None:
    """Show a run until it has ended, or only as it is now.

    Raises:
        InputError: There is no run.
    """
    run = RunFolder(folder)
    if not run.study.is_file():
        raise InputError(
            f"{folder}: expected the folder of a run, with a study.yaml in it.",
            "Runs lie in runs/search/ unless --project says otherwise.",
        )
    view = View(run)
    if once or not console.is_terminal:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False) as live:
        while not view.finished:
            live.refresh()
            time.sleep(REFRESH_S)
        live.refresh()
