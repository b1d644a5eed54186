"""Reading the journal of a run without owning it: of one that goes on, or lies on another machine.

`search.ledger` is the owner's way in; this one never writes, locks or repairs, and passes over a
last line that is not whole yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.score import Failed, Score
from hw_models.errors import CorruptRunError, InputError
from spaces.candidate import Candidate


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded evaluation.

    Attributes:
        digest: Of the candidate.
        rung: `proxy`, `subset` or `full`.
        candidate: What was evaluated.
        result: What came of it.
        seconds: Wall time of the evaluation.
        where: Actor and node, or the run that it was taken over from.
        time: Unix time at which it was recorded.
    """

    digest: str
    rung: str
    candidate: Candidate
    result: Score | Failed
    seconds: float
    where: str
    time: float


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the evaluations of a journal in the order they were recorded.

    Raises:
        InputError: There is no journal.
        CorruptRunError: A line before the last one is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(
            f"{path}: expected the journal of a run ({error.strerror}).",
            "Give the folder of a run; runs lie in runs/search/ unless --project said otherwise.",
        ) from error
    for number, line in enumerate(lines[1:], start=2):
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


def _entry(record: dict[str, Any]) -> Entry:
    result = record["result"]
    return Entry(
        digest=str(record["digest"]),
        rung=str(record["rung"]),
        candidate=Candidate.from_dict(record["candidate"]),
        result=(
            Score.from_dict(result["score"])
            if "score" in result
            else Failed.from_dict(result["failed"])
        ),
        seconds=float(record["seconds"]),
        where=str(record["where"]),
        time=float(record["time"]),
    )
