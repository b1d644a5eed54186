"""`paretrim apply` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hw_models.errors import InputError
from search.export_cli import FORMAT_HELP, NMS_HELP


def apply(
    recipe: Annotated[Path, typer.Argument(help="recipe.json of an exported point")],
    output: Annotated[Path, typer.Option(help="folder for the files")],
    weights: Annotated[
        str | None, typer.Option(help="the dense weights [where the recipe says]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="the data YAML of the search [where the recipe says]")
    ] = None,
    format_name: Annotated[str, typer.Option("--format", help=FORMAT_HELP)] = "onnx",
    nms: Annotated[float | None, typer.Option(help=NMS_HELP)] = None,
    trust_checkpoint: Annotated[
        bool,
        typer.Option("--trust-checkpoint", help="run the code in the .pt file, if it needs that"),
    ] = False,
) -> None:
    """Make the point of a recipe again, from the dense weights, and verify the file."""
    # Imported here: torch, ray and ultralytics take seconds, and the other commands need none.
    try:
        from search.apply import apply as carry_out
    except ModuleNotFoundError as error:
        raise InputError(
            f"Applying needs {error.name}, which is not installed.",
            "pip install 'paretrim[search]'",
        ) from error
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    given = {
        "weights": _absolute(weights),
        "data": _absolute(data),
        "trust_checkpoint": trust_checkpoint or None,
    }
    given = {key: value for key, value in given.items() if value is not None}
    carry_out(recipe, given, format_name, nms, output, console)


def _absolute(text: str | None) -> str | None:
    """Make a path absolute, so that its recipe holds elsewhere; keep a plain name."""
    if text is None or not Path(text).exists():
        return text
    return str(Path(text).resolve())
