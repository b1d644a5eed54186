"""The journal of a run: what was evaluated, with what result. It is the truth; all else is derived.

One JSON object a line, appended and fsynced before a result counts. The first line names the format
and the digest of the settings. A line torn by a crash can only be the last one: it is cut off when
the journal is opened again; damage anywhere else is an error.

A result is keyed by (candidate digest, rung), a measurement by (candidate digest, kind of device
and protocol). Execution may happen more than once, recording does not: the first result wins.

Accuracy depends on no device, budget or method. So a ledger may look into the journals of other
runs: what they know under the same protocol is copied into its own when it is asked for.

With each result stands how often the search had asked for new candidates before it came in. With
several actors that is a matter of chance; a run that goes on tells the search every result at the
same point again, so that it asks for the same candidates (`search.steady`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from evaluators.score import Failed, Score
from hw_models.errors import CorruptRunError, InputError
from search.journal import FORMAT, Entry, read_entries, read_protocol, result_from
from spaces.candidate import Candidate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One evaluation to do: a candidate at a rung of the ladder.

    Attributes:
        candidate: What is evaluated.
        rung: How.
        key: What the result is recorded under; made once, for a digest takes its time.
    """

    candidate: Candidate
    rung: str
    key: tuple[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.candidate.digest, self.rung))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task that was carried out.

    Attributes:
        task: What was to be done.
        result: What came of it.
        seconds: Wall time of the evaluation itself.
        where: The actor and node that did it.
    """

    task: Task
    result: Score | Failed
    seconds: float
    where: str


class Ledger:
    """The journal file, open for appending, and its results by key.

    A context manager: the file is locked against a second driver while it is open.

    Args:
        path: `journal.jsonl` of the run.
        study: Digest of the settings; a journal of other settings is refused.
        others: Journals of other runs to look into, as they are now. They are only read, whoever
            has them open; those of another study have nothing to offer.

    Raises:
        CorruptRunError: The journal or another is damaged, or it belongs to other settings.
        InputError: Another process has the run open; or one of the others is no journal.
    """

    def __init__(self, path: Path, study: str, others: Iterable[Path] = ()) -> None:
        self._elsewhere = _entries_elsewhere(others, study)
        self._path = path
        self._lock = FileLock(path.with_suffix(".lock"))
        self.results: dict[tuple[str, str], Score | Failed] = {}
        self.measured: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.asks: dict[tuple[str, str], int] = {}  # made before a result came in
        self._most_asks = 0
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{path.parent}: another search has this run open.",
                "Wait for it to end, or give another --name.",
            ) from None
        try:
            self._file = path.open("ab")
            self._load(study)
        except BaseException:
            self.close()
            raise

    def _load(self, study: str) -> None:
        records = list(_read_lines(self._path))
        if not records:
            self._append({"format": FORMAT, "study": study})
            return
        header = records[0]
        if header.get("format") != FORMAT:
            raise CorruptRunError(
                f"{self._path}: expected a journal of format {FORMAT}, got {header.get('format')}."
            )
        if header.get("study") != study:
            raise CorruptRunError(
                f"{self._path}: the journal belongs to other settings, weights or data than "
                "study.yaml now describes.",
                "Restore the files the run was started with, or start a new run.",
            )
        for number, record in enumerate(records[1:], start=2):
            try:
                if "measured" in record:
                    key = (str(record["digest"]), str(record["how"]))
                    self.measured.setdefault(key, dict(record["measured"]))
                    continue
                key = (str(record["digest"]), str(record["rung"]))
                self.results.setdefault(key, result_from(record["result"]))
                self._note_asks(key, int(record.get("asks", 0)))
            except (KeyError, TypeError, ValueError) as error:
                raise CorruptRunError(
                    f"{self._path}, line {number}: not a result ({error!r}).",
                    "Remove the line to have that candidate evaluated again.",
                ) from error

    def _note_asks(self, key: tuple[str, str], asks: int) -> None:
        # While a run is told again what it knew, what is new comes after all of that.
        self._most_asks = max(self._most_asks, asks)
        self.asks.setdefault(key, self._most_asks)

    def knows(self, task: Task, asks: int = 0) -> bool:
        """Tell whether there is a result; one that another run knows is taken over first.

        Args:
            task: What is to be known.
            asks: See `record`.

        Raises:
            CorruptRunError: See `record`.
        """
        if task.key not in self.results and task.key in self._elsewhere:
            known = self._elsewhere[task.key]
            self.record(Outcome(task, known.result, known.seconds, known.where), asks)
        return task.key in self.results

    def record(self, outcome: Outcome, asks: int = 0) -> None:
        """Append an outcome; a second result of the same task is dropped.

        Args:
            outcome: What to append.
            asks: How often the search had asked for new candidates when it came in.

        Raises:
            CorruptRunError: The journal cannot be written (disk full, file gone).
        """
        digest, rung = outcome.task.key
        if (digest, rung) in self.results:
            return
        self._note_asks((digest, rung), asks)
        self._append(
            {
                "digest": digest,
                "rung": rung,
                "candidate": outcome.task.candidate.to_dict(),
                "result": _result_to(outcome.result),
                "seconds": round(outcome.seconds, 4),
                "where": outcome.where,
                "asks": self.asks[digest, rung],
                "time": round(time.time(), 3),
            }
        )
        self.results[digest, rung] = outcome.result

    def record_measurement(self, digest: str, how: str, measured: Mapping[str, Any]) -> None:
        """Append what a device measured; a second measurement of the same is dropped.

        Args:
            digest: Of the candidate.
            how: Kind of device and protocol.
            measured: What JSON can hold.

        Raises:
            CorruptRunError: See `record`.
        """
        if (digest, how) not in self.measured:
            self._append(
                {"digest": digest, "how": how, "measured": measured, "time": round(time.time(), 3)}
            )
            self.measured[digest, how] = measured

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CorruptRunError(
                f"{self._path}: the journal cannot be written ({error.strerror}); nothing more is "
                "evaluated.",
                f"Make room, then go on with --resume {self._path.parent}.",
            ) from error

    def close(self) -> None:
        """Close the file and let go of the lock."""
        if hasattr(self, "_file"):
            self._file.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a journal, cutting a torn last line off the file.

    Raises:
        CorruptRunError: A line that is not the last one is not a JSON object.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise CorruptRunError(
                f"{path}, line {number}: expected a JSON object, got {line[:40]!r}.",
                "The journal was damaged from outside; restore it, or start a new run.",
            )
        yield record


def _entries_elsewhere(journals: Iterable[Path], study: str) -> dict[tuple[str, str], Entry]:
    """Return what the journals of other runs know, by key, with their folders as its origin.

    What failed but may succeed elsewhere is passed over.

    Raises:
        InputError: A file is no journal.
        CorruptRunError: A journal is damaged.
    """
    found: dict[tuple[str, str], Entry] = {}
    for path in journals:
        known = len(found)
        for entry in read_entries(path) if read_protocol(path) == study else ():
            if isinstance(entry.result, Score) or not entry.result.retryable:
                origin = replace(entry, where=str(path.parent.absolute()))
                found.setdefault((entry.digest, entry.rung), origin)
        log.info("%s: %d results may be taken over", path.parent, len(found) - known)
    return found


def _result_to(result: Score | Failed) -> dict[str, Any]:
    kind = "score" if isinstance(result, Score) else "failed"
    return {kind: result.to_dict()}
