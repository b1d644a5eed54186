"""A run as an optuna study, to be looked at in optuna-dashboard.

Every candidate becomes a trial: its variables are the parameters, mAP50-95 and the predicted costs
the values, and what else is known its attributes. Candidates that failed are failed trials. The
run's own files stay the truth; exporting again adds what is new.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evaluators.score import Failed, Score
from hw_models.errors import InputError
from search.journal import Entry, read_entries
from search.problem import Problem, prepare
from search.run_folder import RunFolder

log = logging.getLogger(__name__)

RANKS = {"proxy": 0, "subset": 1, "full": 2}


def export_optuna(run: RunFolder, storage: str, name: str) -> int:
    """Write a run into an optuna storage.

    Args:
        run: With a journal; it may still go on.
        storage: As optuna takes it: `sqlite:///run.db`, ...
        name: Of the study.

    Returns:
        How many trials were added.

    Raises:
        InputError: No run, a storage that cannot be opened, or a study of another run.
    """
    problem = prepare(run.read_settings())
    study = open_study(storage, name, problem)
    known = {trial.user_attrs["digest"] for trial in study.get_trials(deepcopy=False)}
    trials = [t for t in trials_of(list(read_entries(run.journal)), problem)
              if t.user_attrs["digest"] not in known]  # fmt: skip
    study.add_trials(trials)
    return len(trials)


def open_study(storage: str, name: str, problem: Problem) -> optuna.Study:
    """Open the study of a run in a storage, or make it.

    Raises:
        InputError: The storage cannot be opened, or holds a study of another run by that name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = metric_names(problem)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(names) - 1)],
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy and its drivers raise dozens of unrelated classes
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{storage}: optuna cannot open it ({reason}).", "Give for example sqlite:///run.db."
        ) from error
    owner = study.user_attrs.get("protocol", problem.protocol)
    if owner != problem.protocol or len(study.directions) != len(names):
        raise InputError(
            f"{storage} has a study {name} of another run already.", "Give another --name."
        )
    study.set_user_attr("protocol", problem.protocol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names)
    return study


def metric_names(problem: Problem) -> list[str]:
    """Return what is maximised and what minimised, in the order of a trial's values."""
    known = not math.isnan(problem.cost(problem.dense()).energy_mj)
    return ["map50_95", "latency_ms", *(["energy_mj"] if known else []), "size_mb"]


def trials_of(entries: Sequence[Entry], problem: Problem) -> Iterator[FrozenTrial]:
    """Yield a trial for each candidate that was scored or failed, by its best rung."""
    best: dict[str, Entry] = {}
    for entry in entries:
        before = best.get(entry.digest)
        if before is None or RANKS[entry.rung] > RANKS[before.rung]:
            best[entry.digest] = entry
    names = metric_names(problem)
    for entry in best.values():
        if entry.rung != "proxy" or isinstance(entry.result, Failed):
            yield _trial(entry, problem, names)


def _trial(entry: Entry, problem: Problem, names: Sequence[str]) -> FrozenTrial:
    cost = problem.cost(entry.candidate)
    values = {"latency_ms": cost.latency_ms, "energy_mj": cost.energy_mj,
              "size_mb": cost.size_bytes / 1e6}  # fmt: skip
    attributes: dict[str, Any] = {
        "digest": entry.digest,
        "rung": entry.rung,
        "latency_low_ms": cost.low_ms,
        "latency_high_ms": cost.high_ms,
        "where": entry.where,
    }
    scored = isinstance(entry.result, Score)
    if isinstance(entry.result, Score):
        values["map50_95"] = entry.result.map50_95 or 0.0
        attributes |= {"agreement": entry.result.agreement, "map50": entry.result.map50}
    else:
        attributes |= {"failure": entry.result.kind, "message": entry.result.message}
    trial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if scored else TrialState.FAIL,
        values=[values[name] for name in names] if scored else None,
        user_attrs=attributes,
        **_parameters(entry, problem),
    )
    trial.datetime_complete = datetime.fromtimestamp(entry.time)
    trial.datetime_start = datetime.fromtimestamp(entry.time - entry.seconds)
    return trial


def _parameters(entry: Entry, problem: Problem) -> dict[str, Any]:
    """Return a trial's parameters; none for a candidate outside the space, such as a dense size."""
    try:
        levels = problem.space.encode(entry.candidate)
    except InputError:
        return {}
    params, distributions = {}, {}
    for variable, level in zip(problem.space.variables, levels, strict=True):
        options = [
            option if isinstance(option, int) else str(option) for option in variable.options
        ]
        params[variable.name] = options[level]
        distributions[variable.name] = CategoricalDistribution(options)
    return {"params": params, "distributions": distributions}
