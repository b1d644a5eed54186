from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluators.score import Failed, Score
from hw_models.errors import CorruptRunError, InputError
from search.ledger import Ledger, Outcome, Task
from spaces.candidate import Candidate


def outcome(channels: int, rung: str = "subset", map50_95: float = 0.5) -> Outcome:
    candidate = Candidate(imgsz=320, kept=(("model.0", channels),), bits=(("model.0", 16, 16),))
    score = Score(map50_95, 0.7, 0.1, 0.9, images=32, rung=rung)
    return Outcome(Task(candidate, rung), score, seconds=1.25, where="here")


def fill(path: Path, count: int) -> list[Outcome]:
    outcomes = [outcome(8 * number) for number in range(1, count + 1)]
    with Ledger(path, "study") as ledger:
        for item in outcomes:
            ledger.record(item)
    return outcomes


def test_results_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    outcomes = fill(path, 3)
    failed = Outcome(outcome(99).task, Failed("crash", "died", retryable=True), 3.0, "there")
    with Ledger(path, "study") as ledger:
        ledger.record(failed)
    with Ledger(path, "study") as ledger:
        expected = {item.task.key: item.result for item in [*outcomes, failed]}
        assert ledger.results == expected


def test_the_first_result_of_a_task_wins(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = outcome(8, map50_95=0.5), outcome(8, map50_95=0.6)
    with Ledger(path, "study") as ledger:
        ledger.record(first)
        ledger.record(second)
        assert ledger.results[first.task.key] == first.result
    assert len(path.read_text().splitlines()) == 2  # header and one result


def test_rungs_are_different_tasks(tmp_path: Path) -> None:
    with Ledger(tmp_path / "journal.jsonl", "study") as ledger:
        ledger.record(outcome(8, "subset"))
        ledger.record(outcome(8, "full"))
        assert len(ledger.results) == 2


def test_torn_last_line_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 2)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        with Ledger(path, "study") as ledger:
            assert len(ledger.results) == 1
            ledger.record(outcome(16))  # what was lost is recorded again
        assert path.read_bytes().count(b"\n") == 3
        for line in path.read_text().splitlines():
            json.loads(line)


def test_torn_header_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"format": "pare')
    with Ledger(path, "study") as ledger:
        assert ledger.results == {}
    with Ledger(path, "study"):
        pass


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    with pytest.raises(CorruptRunError, match="line 2"):
        Ledger(path, "study")


def test_a_record_that_is_no_result_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 1)
    with path.open("a") as file:
        file.write('{"digest": "x", "rung": "full", "result": {"score": {"map50": 2}}}\n')
    with pytest.raises(CorruptRunError, match="line 3"):
        Ledger(path, "study")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, 1)
    with pytest.raises(CorruptRunError, match="other settings"):
        Ledger(path, "another study")
    with Ledger(path, "study"):  # and the lock was let go
        pass


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"format": "paretrim-journal-0", "study": "study"}\n')
    with pytest.raises(CorruptRunError, match="format"):
        Ledger(path, "study")


def test_a_second_driver_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Ledger(path, "study"), pytest.raises(InputError, match="has this run open"):
        Ledger(path, "study")


def test_what_another_run_knows_is_taken_over_once_asked_for(tmp_path: Path) -> None:
    other, own = tmp_path / "other" / "journal.jsonl", tmp_path / "own" / "journal.jsonl"
    other.parent.mkdir()
    own.parent.mkdir()
    known = fill(other, 3)
    lost = Outcome(outcome(99).task, Failed("crash", "died", retryable=True), 3.0, "there")
    with Ledger(other, "study") as ledger:  # open elsewhere, its last line not yet whole
        ledger.record(lost)
        with other.open("ab") as file:
            file.write(b'{"digest": "to')
        before = other.read_bytes()
        with Ledger(own, "study", [other]) as mine:
            assert mine.results == {}
            assert mine.knows(known[1].task)
            assert not mine.knows(lost.task)  # may succeed here
            assert mine.results == {known[1].task.key: known[1].result}
        assert other.read_bytes() == before
    record = json.loads(own.read_text().splitlines()[1])
    assert (record["where"], record["seconds"]) == (str(other.parent), 1.25)
    with Ledger(own, "study") as mine:  # from now on it is in the run's own journal
        assert mine.knows(known[1].task)


def test_runs_under_another_protocol_have_nothing_to_offer(tmp_path: Path) -> None:
    known = fill(tmp_path / "other.jsonl", 1)
    with Ledger(tmp_path / "own.jsonl", "another study", [tmp_path / "other.jsonl"]) as ledger:
        assert not ledger.knows(known[0].task)


@pytest.mark.parametrize("content", [b"", b"no json\n", b'{"format": "else"}\n', b"[]\n"])
def test_results_can_only_be_taken_from_journals(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"other.jsonl: expected the journal"):
        Ledger(tmp_path / "own.jsonl", "study", [tmp_path / "other.jsonl"])
    with pytest.raises(InputError, match=r"missing.jsonl: expected the journal"):
        Ledger(tmp_path / "own.jsonl", "study", [tmp_path / "missing.jsonl"])


def test_a_full_disk_stops_loudly(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Ledger(path, "study") as ledger:
        ledger._file.close()
        ledger._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        with pytest.raises(CorruptRunError, match="cannot be written"):
            ledger.record(outcome(8))
        assert ledger.results == {}
