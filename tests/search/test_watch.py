from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from hw_models.errors import InputError
from search.run_folder import RunFolder
from search.status import Best, Status, read_status, write_status
from search.watch import Tail, View, live_view, watch_run


def line(rung: str, at: float, where: str = "10.0.0.1/7", **result: object) -> bytes:
    record = {"digest": "d", "rung": rung, "result": result or {"score": {}}, "where": where}
    return json.dumps({**record, "seconds": 1.0, "time": at}).encode() + b"\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.study.write_text("settings: {}\n")
    folder.journal.write_bytes(b'{"format":"paretrim-journal-1","study":"x"}\n')
    return folder


def shown(view: View) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def test_a_status_survives_its_file(run: RunFolder) -> None:
    assert read_status(run) is None
    status = Status(12, 400, 0.25, {"30ms": Best(0.5, 21.0), "5ms": None})
    write_status(run, status)
    assert read_status(run) == status
    run.status.write_text('{"version": 2}')
    assert read_status(run) is None


def test_a_line_is_read_once_it_is_whole(run: RunFolder) -> None:
    tail = Tail(run.journal)
    tail.follow()
    whole = line("subset", 5.0)
    with run.journal.open("ab") as file:
        file.write(whole + whole[:20])
        file.flush()
        tail.follow()
        assert tail.rungs == {"subset": 1}
        file.write(whole[20:])
        file.flush()
        tail.follow()
        tail.follow()
    assert tail.rungs == {"subset": 2}


def test_what_is_shown_of_a_search(run: RunFolder) -> None:
    view = View(run, clock=lambda: 190.0)
    assert "starting" in shown(view)
    failed = {"failed": {"kind": "exploded", "message": "", "retryable": False}}
    with run.journal.open("ab") as file:
        for number in range(10):
            file.write(line("subset", 100.0 + 6 * number, f"10.0.0.{number % 2}/7"))
        file.write(line("subset", 160.0, **failed))
    write_status(run, Status(11, 31, 0.25, {"30ms": Best(0.5, 21.0), "5ms": None}))
    text = shown(view)
    assert "searching" in text
    assert "11 of 31, at most 2 min to go" in text  # 20 more, 6 s each
    assert "mAP50-95 0.500 at 21.00 ms predicted" in text
    assert "none yet" in text
    assert "1 exploded" in text
    assert "10.0.0.0/7 5" in text
    measured = {"digest": "d", "how": "k", "measured": {"device": "orin-7"}, "time": 161.0}
    with run.journal.open("ab") as file:
        file.write(line("full", 165.0) + json.dumps(measured).encode() + b"\n")
    text = shown(view)
    assert "verifying" in text
    assert "orin-7 1" in text
    assert "silent for" in shown(View(run, clock=lambda: 1000.0))


def test_watching_ends_with_the_run(run: RunFolder) -> None:
    console = Console(width=100, record=True, force_terminal=True, file=io.StringIO())
    os.utime(run.journal, (1.0, 1.0))
    run.report_data.write_text("{}")
    watch_run(run.path, console, once=False)
    assert "finished" in console.export_text()
    with live_view(console, run) as progress:
        progress.add_task("probing", total=3)
    with pytest.raises(InputError, match=r"study\.yaml"):
        watch_run(run.path / "none", console, once=True)
