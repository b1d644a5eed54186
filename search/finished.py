"""A finished run, read back from its own files: its front, and what was recovered from it.

front.csv is merged from two sources: the search's own front (kept in `recover/front.csv` once there
is anything else) and the records of recovered points, `recover/points/*.json`.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.progress import Progress

from evaluators.score import Score
from hw_models.errors import CorruptRunError, InputError
from search.explorer import Session
from search.front import RECOVERED, Point, pareto
from search.journal import read_entries
from search.ledger import Ledger, Outcome, Task
from search.measure import file_digest, how_measured, times_of
from search.outputs import Result, best_of, front_text, write_outputs
from search.problem import Problem, prepare
from search.promise import corrected
from search.report import write_report
from search.run_folder import RunFolder, write_whole
from search.study import score_dense
from spaces.candidate import Candidate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A finished run.

    Attributes:
        run: Its folder.
        problem: What was searched.
        how: How picks were measured (`Bench.how`); None if they were not.
        searched: The front of the search alone.
        merged: The front of the search and of what was recovered.
        recovered: Every recovered point, on the front or not.
        explored: Every point that the search scored on few images.
    """

    run: RunFolder
    problem: Problem
    how: str | None
    searched: Result
    merged: Result
    recovered: tuple[Point, ...]
    explored: tuple[Point, ...]

    def choose(self, ids: Sequence[str]) -> list[Point]:
        """Return the points with these ids; without ids, the picks of the search.

        Raises:
            InputError: A point is unknown, or there is no pick.
        """
        points = (*self.searched.front, self.searched.dense[0], *self.recovered)
        known = {point.id: point for point in points}
        for name in ids:
            if name not in known:
                raise InputError(
                    f"--point {name}: the run has no such point; it has {', '.join(known)}.",
                    f"Ids are in {self.run.front}.",
                )
        if ids:
            return [known[name] for name in dict.fromkeys(ids)]
        limits = self.searched.limits
        picks = {p.id: p for limit in limits if (p := self.searched.pick(limit)) is not None}
        if not picks:
            raise InputError(
                "No point of the front meets a budget, so there is no pick.",
                "Name points with --point.",
            )
        return list(picks.values())

    def write(self) -> None:
        """Write front.csv, picks.json and the report anew."""
        write_outputs(self.run, self.problem, self.merged)
        write_report(self.run, self.problem, self.merged, list(self.explored))


def read_finished(folder: Path) -> Finished:
    """Read a finished run.

    Raises:
        InputError: No finished run lies there, or another process has it open.
        CorruptRunError: Its files contradict each other.
    """
    run = RunFolder(folder)
    for path in (run.study, run.journal, run.front, run.picks):
        if not path.is_file():
            raise InputError(
                f"{folder}: expected the folder of a finished search, but it has no {path.name}.",
                f"Finish the search first (--resume {folder}), or give another folder.",
            )
    problem = prepare(run.read_settings())
    candidates = {entry.digest: entry.candidate for entry in read_entries(run.journal)}
    with Ledger(run.journal, problem.protocol) as ledger, Progress(disable=True) as progress:
        how = _how_measured(run, ledger, problem)
        times = None if how is None else times_of(ledger, how)
        if times is not None:
            problem = corrected(problem, times[problem.dense().digest].latency_ms)
        session = Session(ledger, _NoPool(), progress)
        searched = _read_front(run, problem, session, candidates)
        searched = replace(searched, measured=times)
        few = [(c, ledger.results.get((digest, "subset"))) for digest, c in candidates.items()]
    explored = (
        Point("", "", c, problem.cost(c), score) for c, score in few if isinstance(score, Score)
    )
    merged = with_recovered(run, problem, searched)
    return Finished(
        run, problem, how, searched, merged,
        tuple(point for point, _ in recovered_points(run, problem)), tuple(explored),
    )  # fmt: skip


class _NoPool:
    """Evaluates nothing: all that is asked for must be in the journal."""

    size = 0

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield nothing.

        Raises:
            InputError: If anything is asked for.
        """
        missing = list(tasks)
        if missing:
            raise InputError(
                f"The journal lacks {len(missing)} results that front.csv is made of.",
                "Finish the search first, with --resume.",
            )
        return iter(())

    def close(self) -> None:
        """Nothing to let go of."""


def _how_measured(run: RunFolder, ledger: Ledger, problem: Problem) -> str | None:
    """Return how the front's latencies were measured, None if none was.

    Raises:
        CorruptRunError: They are not in the journal.
    """
    path = _front_of_search(run)
    measured = next((row.get("measured_ms") for row in _rows(path) if row["id"] == "dense"), None)
    if not measured:
        return None
    how = how_measured(ledger, problem.dense(), float(measured))
    if how is None:
        raise CorruptRunError(
            f"{path}: the dense model's {measured} ms are not in the journal.",
            f"Write the front anew with --resume {run.path}.",
        )
    return how


def _front_of_search(run: RunFolder) -> Path:
    return run.searched_front if run.searched_front.is_file() else run.front


def _read_front(
    run: RunFolder, problem: Problem, session: Session, candidates: dict[str, Candidate]
) -> Result:
    """Return the search's own front.

    Raises:
        CorruptRunError: front.csv has a point that the journal does not know.
    """
    path = _front_of_search(run)
    rows = _rows(path)
    if any(row["method"] == RECOVERED for row in rows):
        raise CorruptRunError(
            f"{path} has recovered points, but {run.searched_front}, the front before them, is"
            " gone.",
            f"Write the front anew with --resume {run.path}.",
        )
    dense = score_dense(problem, session)
    front, exported = [], {}
    for row in rows:
        if row["map50_95_exported"]:
            exported[row["id"]] = float(row["map50_95_exported"])
        if row["id"] == "dense":
            continue
        score = session.ledger.results.get((row["digest"], "full"))
        if row["digest"] not in candidates or not isinstance(score, Score):
            raise CorruptRunError(
                f"{path}: the point {row['id']} is not in the journal.",
                f"Write the front anew with --resume {run.path}.",
            )
        candidate = candidates[row["digest"]]
        front.append(Point(row["id"], row["method"], candidate, problem.cost(candidate), score))
    limits = problem.limits_above(dense[0].score)
    return Result(tuple(front), tuple(dense), limits, exported)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"id", "digest", "method", "map50_95_exported"} <= rows[0].keys():
        raise CorruptRunError(
            f"{path}: expected a table with id, method, map50_95_exported and digest.",
            "Write it anew with --resume.",
        )
    return rows


def recovered_points(run: RunFolder, problem: Problem) -> list[tuple[Point, float]]:
    """Return every recovered point with the mAP50-95 of its file.

    Points that were trained from other weights or measured on other images are left out.

    Raises:
        CorruptRunError: A record cannot be read.
    """
    points = []
    for path in sorted(run.recovered.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["protocol"] != problem.protocol:
                log.warning("%s: recovered from another search, left out", path)
                continue
            candidate = Candidate.from_dict(record["candidate"])
            score = Score.from_dict(record["score"])
            point = Point(str(record["id"]), RECOVERED, candidate, problem.cost(candidate), score)
            points.append((point, float(record["exported"])))
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise CorruptRunError(
                f"{path}: not the record of a recovered point ({error!r}).", "Remove it."
            ) from error
    return points


def with_recovered(run: RunFolder, problem: Problem, searched: Result) -> Result:
    """Return the front of the search and of everything recovered from it.

    The search's own front is kept beside the records. A recovered point is predicted to cost what
    the point it came from costs; whichever is less accurate leaves the front, but for picks that
    were measured.

    Args:
        run: Where the records and files lie.
        problem: What was searched.
        searched: The front of the search; `measured` has latencies of recovered files, too, by the
            digest of the file.
    """
    recovered = recovered_points(run, problem)
    if not recovered:
        return searched
    run.searched_front.parent.mkdir(exist_ok=True)
    write_whole(run.searched_front, front_text(problem, searched))
    points = [*searched.front, *(point for point, _ in recovered)]
    exported = searched.exported | {point.id: file for point, file in recovered}
    merged = replace(searched, exported=exported)
    front = pareto(points, lambda point: problem.objectives(point.cost, point.score))
    if searched.measured is not None:
        times = dict(searched.measured)
        digests = {point.id: _digest_of_file(run, point) for point, _ in recovered}
        times |= {name: times[digest] for name, digest in digests.items() if digest in times}
        merged = replace(merged, measured=times)
        picks = (best_of(points, partial(merged.meets, limit=limit)) for limit in merged.limits)
        front += [pick for pick in picks if pick is not None and pick not in front]
    front.sort(key=lambda point: point.cost.latency_ms)
    return replace(merged, front=tuple(front))


def _digest_of_file(run: RunFolder, point: Point) -> str:
    path = run.model(point.id) / "model.onnx"
    return file_digest(path) if path.is_file() else ""
