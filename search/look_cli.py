"""`paretrim report`, `watch` and `export-optuna` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hw_models.errors import InputError

LOG_WIDTH = 130  # of tables where standard output is no terminal
Run = Annotated[Path, typer.Argument(help="the folder of a search")]


def report(run: Run) -> None:
    """Make report.html and front.png of a run again, from its folder alone."""
    # Imported here: plotting takes a second, and the other commands need none.
    try:
        from search.report import make_report
        from search.run_folder import RunFolder
    except ModuleNotFoundError as error:
        raise missing(error) from error
    folder = RunFolder(run)
    make_report(folder)
    print(f"Report:  {folder.report}")


def watch(
    run: Run,
    once: Annotated[bool, typer.Option("--once", help="print it as it is now, and end")] = False,
) -> None:
    """Watch a search that goes on, here or elsewhere: best points, pace, failures, workers."""
    try:
        from search.watch import watch_run
    except ModuleNotFoundError as error:
        raise missing(error) from error
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    watch_run(run, console, once)


def export_optuna(
    run: Run,
    storage: Annotated[str, typer.Argument(metavar="STORAGE-URL", help="such as sqlite:///run.db")],
    name: Annotated[str | None, typer.Option(help="name of the study [that of the run]")] = None,
) -> None:
    """Write a run into an optuna storage, for optuna-dashboard; called again, what is new."""
    try:
        from search.run_folder import RunFolder
    except ModuleNotFoundError as error:
        raise missing(error) from error
    try:
        from search import optuna_export
    except ModuleNotFoundError as error:
        raise missing(error, "optuna") from error
    added = optuna_export.export_optuna(RunFolder(run), storage, name or run.resolve().name)
    print(f"{added} trials added; look at them with: optuna-dashboard {storage}")


def missing(error: ModuleNotFoundError, extra: str = "search") -> InputError:
    """Say what to install."""
    return InputError(
        f"This command needs {error.name}, which is not installed.",
        f"pip install 'paretrim[{extra}]'",
    )
