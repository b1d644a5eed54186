"""What the documentation says to type is typed: every command parses, every module is there.

Commands are parsed by the real command lines, not run.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from search.cli import app
from search.design.plan import read_plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS = ("paretrim", "python", "paretrim-worker", "ray")
SHELL = {">", "2>&1", "|", "&", "<", ">>", "&&"}


def commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command) of all indented or fenced lines that begin with a known program."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = False
        for line in text.splitlines():
            if line.lstrip().startswith("```"):
                fenced = not fenced
                continue
            code = line.strip().removeprefix("$ ")
            first = code.split(" ")[0].rpartition("/")[2]
            if (fenced or line.startswith("    ")) and first in WORDS and code not in WORDS:
                yield page.name, code


def words_of(command: str) -> list[str]:
    """Return the arguments, without a comment and what the shell does with the rest."""
    words = shlex.split(command, comments=True)
    cut = next((i for i, word in enumerate(words) if word in SHELL), len(words))
    return words[:cut]


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_a_command_parses(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    (tmp_path / "runs" / "search" / "exp").mkdir(parents=True)
    program, *arguments = words_of(command)
    name = Path(program).name
    if name == "ray":
        if "search.py" not in arguments:
            return  # Ray's own
        name, arguments = "python", arguments[arguments.index("search.py") :]
    if name == "python":
        if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]) is not None, command
            return
        if arguments[0] != "search.py":
            assert (ROOT / arguments[0]).exists(), command
            return
        name, arguments = "paretrim", ["search", *arguments[1:]]
    if name == "paretrim":
        parse(arguments)
    else:
        worker_parser().parse_args(arguments)


def parse(arguments: list[str]) -> None:
    """Let typer parse a command line without running it."""
    if "..." in arguments:
        arguments = arguments[: arguments.index("...")]
    group = typer.main.get_command(app)
    command = group.commands[arguments[0]]  # type: ignore[attr-defined]
    if "--help" not in arguments:
        command.make_context(arguments[0], arguments[1:])


def worker_parser() -> object:
    sys.path.insert(0, str(ROOT / "hw_models" / "worker"))
    try:
        from paretrim_worker.cli import parser
    finally:
        sys.path.pop(0)
    return parser()


def test_there_is_something_to_parse() -> None:
    found = [command for _, command in commands()]
    assert len(found) > 30
    for name in ("recover", "report", "watch", "study", "export-optuna", "predict", "calibrate"):
        assert any(re.match(rf"paretrim {name}\b", command) for command in found), name


def test_the_study_of_the_walk_through_is_one() -> None:
    assert len(read_plan(ROOT / "docs" / "design-study.yaml").jobs) == 12
