"""Runs the searches of a study, one after the other, each on all actors.

Accuracy depends on no device, power mode, budget or method: a search looks into the journals of the
earlier ones of its model first. The same command goes on with a study that was interrupted.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from hw_models.errors import InfeasibleError, InputError
from search.design.plan import Job, Plan
from search.problem import Problem, check_within_reach, load_problem
from search.report import read_report
from search.run import read_settings, resume_search, search_problem
from search.run_folder import RunFolder, write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths of one study."""

    path: Path

    @property
    def table(self) -> Path:
        """One row a search and budget."""
        return self.path / "comparison.csv"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    def run(self, job: Job) -> RunFolder:
        """Return the run folder of a search."""
        return RunFolder(self.path / "runs" / job.name)

    def refusal(self, job: Job) -> Path:
        """Return the file of the budgets that no candidate of a search can meet."""
        return self.path / "refused" / f"{job.name}.json"

    def refused(self, job: Job) -> dict[str, str]:
        """Return why budgets were refused, by budget."""
        path = self.refusal(job)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def carry_out(plan: Plan, folder: StudyFolder) -> None:
    """Run what has not been run yet.

    Raises:
        InputError: A run of that name was made with other options.
        KeyboardInterrupt: The study goes on when it is called again.
    """
    for number, job in enumerate(plan.jobs, start=1):
        earlier = [
            folder.run(other)
            for other in plan.jobs[: number - 1]
            if folder.run(other).journal.is_file()
        ]
        log.info("search %d of %d: %s", number, len(plan.jobs), job.name)
        _search(job, folder, earlier)


def is_done(job: Job, folder: StudyFolder) -> bool:
    """Tell whether a search came to its end, or cannot be run at all."""
    run = folder.run(job)
    refused = set(job.budgets) <= set(folder.refused(job))
    return refused or (run.report_data.is_file() and read_report(run).complete)


def _search(job: Job, folder: StudyFolder, earlier: Sequence[RunFolder]) -> None:
    run = folder.run(job)
    reuse = {"reuse": tuple(str(other.path.resolve()) for other in earlier)}
    if run.journal.is_file():
        _check_same(job, folder)
    if is_done(job, folder):
        log.info("done before")
        return
    quiet = Console(file=io.StringIO())  # its table is one of many: the comparison has them all
    if run.journal.is_file():
        resume_search(str(run.path), run.path.parent, reuse, quiet)
        return
    problem = _within_reach(load_problem(read_settings({**job.given, **reuse})), job, folder)
    if problem is not None:
        search_problem(problem, run.path.parent, job.name, exist_ok=True, console=quiet)


def _check_same(job: Job, folder: StudyFolder) -> None:
    """Refuse to mix runs of other options into a study."""
    wanted = read_settings({**job.given, "latency": _open_budgets(job, folder)})
    found = folder.run(job).read_settings()
    names = sorted(
        name
        for name in type(wanted).model_fields
        if name not in ("actors", "reuse") and getattr(wanted, name) != getattr(found, name)
    )
    if names:
        raise InputError(
            f"{folder.run(job).path}: was searched with another {', '.join(names)} than the study "
            "asks for now.",
            "Give the study another --name, or move that run away.",
        )


def _open_budgets(job: Job, folder: StudyFolder) -> tuple[str, ...]:
    refused = folder.refused(job)
    return tuple(budget for budget in job.budgets if budget not in refused)


def _within_reach(problem: Problem, job: Job, folder: StudyFolder) -> Problem | None:
    """Return a problem with those of its budgets that can be met; None if there are none.

    The others are noted with the reason: one budget out of reach must not end a study.
    """
    refused = {}
    for limit in problem.limits:
        try:
            check_within_reach(problem, [limit])
        except InfeasibleError as error:
            refused[limit.text] = error.message
            log.warning("%s within %s: %s", job.name, limit.text, error.message)
    if not refused:
        return problem
    folder.refusal(job).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder.refusal(job), json.dumps(refused, indent=1) + "\n")
    limits = tuple(limit for limit in problem.limits if limit.text not in refused)
    latency = tuple(b for b in problem.settings.latency if b.text not in refused)
    settings = problem.settings.model_copy(update={"latency": latency})
    return replace(problem, settings=settings, limits=limits) if limits else None
