"""`paretrim study` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli_parts import console, needing


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the matrix to search")],
    project: Annotated[Path, typer.Option(help="where studies are kept")] = Path("runs/study"),
    name: Annotated[str | None, typer.Option(help="name of the study [that of the file]")] = None,
) -> None:
    """Search a matrix of models, devices, power modes, budgets, methods and seeds, and compare.

    Given again after an interruption, the same command goes on where it was.
    """
    with needing():
        from search.design.carry_out import StudyFolder, carry_out
        from search.design.compare import compare
        from search.design.outputs import answers, tables, write_comparison
        from search.design.plan import read_plan
        from search.progress import start_logging
    out = console()
    start_logging(out)
    plan = read_plan(file)
    folder = StudyFolder(project / (name or plan.name))
    try:
        carry_out(plan, folder)
    finally:  # also of a study that was interrupted: what there is
        comparison = compare(plan, folder)
        if comparison.curves:
            write_comparison(folder, comparison)
    for table in tables(comparison):
        out.print(table)
    for line in answers(comparison):
        out.print(line, style="bold")
    evaluated = sum(effort.evaluated for effort in comparison.efforts)
    reused = sum(effort.reused for effort in comparison.efforts)
    out.print(
        f"{len(plan.jobs)} searches: {evaluated} evaluations, {reused} taken over from other "
        f"searches, {comparison.twice} made twice."
    )
    out.print(f"Table:   {folder.table}", f"Report:  {folder.report}", sep="\n")
