"""Reading the journal of a run without owning it: of one that goes on, or lies on another machine.

`search.ledger` is the owner's way in; this one never writes, locks or repairs, and passes over a
last line that is not whole yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.score import Failed, Score
from hw_models.errors import CorruptRunError, InputError
from spaces.candidate import Candidate

FORMAT = "paretrim-journal-1"
ADVICE = "Give the folder of a run; runs lie in runs/search/ unless --project said otherwise."


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded evaluation.

    Attributes:
        digest: Of the candidate.
        rung: `proxy`, `subset` or `full`.
        candidate: What was evaluated.
        result: What came of it.
        seconds: Wall time of the evaluation.
        where: Actor and node, or the absolute path of the run that it was taken over from.
        time: Unix time at which it was recorded.
    """

    digest: str
    rung: str
    candidate: Candidate
    result: Score | Failed
    seconds: float
    where: str
    time: float

    @property
    def is_reused(self) -> bool:
        """Whether another run had evaluated it before."""
        return Path(self.where).is_absolute()


def read_protocol(path: Path) -> str:
    """Return the digest of what results depend on: weights, images, how they are scored.

    Raises:
        InputError: The file is no journal.
    """
    try:
        header = json.loads(_whole_lines(path)[0])
        if header["format"] == FORMAT:
            return str(header["study"])
        found = f"format {header['format']!r}"
    except (IndexError, ValueError, KeyError, TypeError) as error:
        found = repr(error)
    raise InputError(f"{path}: expected the journal of a run, got {found}.", ADVICE)


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the evaluations of a journal in the order they were recorded.

    Raises:
        InputError: There is no journal.
        CorruptRunError: A line before the last one is damaged.
    """
    for number, line in enumerate(_whole_lines(path)[1:], start=2):
        try:
            record = json.loads(line)
            if "rung" in record:
                yield _entry(record)
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise CorruptRunError(
                f"{path}, line {number}: expected a recorded evaluation, got {line[:40]!r} "
                f"({error!r}).",
                "The journal was damaged from outside; restore it.",
            ) from error


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(
            f"{path}: expected the journal of a run ({error.strerror}).", ADVICE
        ) from error


def result_from(record: Mapping[str, Any]) -> Score | Failed:
    """Return what an evaluation came to, as the journal has it.

    Raises:
        KeyError, TypeError, ValueError: It is neither.
    """
    if "score" in record:
        return Score.from_dict(record["score"])
    return Failed.from_dict(record["failed"])


def _entry(record: Mapping[str, Any]) -> Entry:
    return Entry(
        digest=str(record["digest"]),
        rung=str(record["rung"]),
        candidate=Candidate.from_dict(record["candidate"]),
        result=result_from(record["result"]),
        seconds=float(record["seconds"]),
        where=str(record["where"]),
        time=float(record["time"]),
    )
