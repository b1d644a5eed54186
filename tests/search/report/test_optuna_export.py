from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from evaluators.score import Failed
from hw_models.errors import InputError
from search.journal import read_entries
from search.optuna_export import metric_names, open_study, trials_of
from search.problem import accuracy
from tests.search.report.conftest import Searched


def test_candidates_become_trials(searched: Searched, tmp_path: Path) -> None:
    entries = list(read_entries(searched.run.journal))
    trials = list(trials_of(entries, searched.problem))
    storage = f"sqlite:///{tmp_path / 'run.db'}"
    study = open_study(storage, "toy", searched.problem)
    study.add_trials(trials)
    assert len(open_study(storage, "toy", searched.problem).trials) == len(trials)  # not made anew
    other = replace(searched.problem, protocol="another")
    with pytest.raises(InputError, match="of another run"):
        open_study(storage, "toy", other)
    with pytest.raises(InputError, match="optuna cannot open it"):
        open_study("nonsense", "toy", searched.problem)
    loaded = optuna.load_study(study_name="toy", storage=storage)
    assert loaded.metric_names == metric_names(searched.problem)
    by_digest = {t.user_attrs["digest"]: t for t in loaded.get_trials()}
    assert len(by_digest) == len(loaded.get_trials())  # a candidate is one trial, at its best rung
    for point in searched.result.front:
        trial = by_digest[point.candidate.digest]
        assert trial.user_attrs["rung"] == "full"
        assert trial.values[:2] == pytest.approx([accuracy(point.score), point.cost.latency_ms])
        kept = dict(point.candidate.kept)
        for name, value in trial.params.items():
            if name.startswith("keep:"):
                assert value == kept[name.removeprefix("keep:")]
    probes = {e.digest for e in entries if e.rung == "proxy"}
    scored = {e.digest for e in entries if e.rung != "proxy"}
    assert set(by_digest) == scored
    assert probes - scored
    # In one run the front by optuna's own reckoning has the same most accurate point.
    best = max(loaded.best_trials, key=lambda t: t.values[0])
    assert best.values[0] >= max(accuracy(p.score) for p in searched.result.front) - 1e-9


def test_failures_are_failed_trials(searched: Searched) -> None:
    entry = next(e for e in read_entries(searched.run.journal) if e.rung == "subset")
    failed = type(entry)(
        entry.digest, "subset", entry.candidate, Failed("exploded", "too much"), 1.0, "x", 9.0
    )
    (trial,) = trials_of([failed], searched.problem)
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs["failure"] == "exploded"


def test_a_damaged_journal_is_told(searched: Searched, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the journal of a run"):
        list(read_entries(tmp_path / "journal.jsonl"))
    lines = searched.run.journal.read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    assert len(list(read_entries(tmp_path / "journal.jsonl"))) == 2  # the last is not whole yet
    record = json.loads(lines[2])
    del record["candidate"]
    (tmp_path / "journal.jsonl").write_bytes(lines[0] + json.dumps(record).encode() + b"\n")
    with pytest.raises(Exception, match="line 2: expected a recorded evaluation"):
        list(read_entries(tmp_path / "journal.jsonl"))
