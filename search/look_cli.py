"""`paretrim report`, `watch` and `export-optuna` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli_parts import console, needing

Run = Annotated[Path, typer.Argument(help="the folder of a search")]


def report(run: Run) -> None:
    """Make report.html and front.png of a run again, from its folder alone."""
    with needing():
        from search.report import make_report
        from search.run_folder import RunFolder
    folder = RunFolder(run)
    make_report(folder)
    print(f"Report:  {folder.report}")


def watch(
    run: Run,
    once: Annotated[bool, typer.Option("--once", help="print it as it is now, and end")] = False,
) -> None:
    """Watch a search that goes on, here or elsewhere: best points, pace, failures, workers."""
    with needing():
        from search.watch import watch_run
    watch_run(run, console(), once)


def export_optuna(
    run: Run,
    storage: Annotated[str, typer.Argument(metavar="STORAGE-URL", help="such as sqlite:///run.db")],
    name: Annotated[str | None, typer.Option(help="name of the study [that of the run]")] = None,
) -> None:
    """Write a run into an optuna storage, for optuna-dashboard; called again, what is new."""
    with needing():
        from search.run_folder import RunFolder
    with needing("optuna"):
        from search import optuna_export
    added = optuna_export.export_optuna(RunFolder(run), storage, name or run.resolve().name)
    print(f"{added} trials added; look at them with: optuna-dashboard {storage}")
