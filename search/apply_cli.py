"""`paretrim apply` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli_parts import TrustCheckpoint, console, file_or_name, needing
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
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Make the point of a recipe again, from the dense weights, and verify the file."""
    with needing():
        from search.apply import apply as carry_out
    given = {
        "weights": file_or_name(weights),
        "data": file_or_name(data),
        "trust_checkpoint": trust_checkpoint or None,
    }
    given = {key: value for key, value in given.items() if value is not None}
    carry_out(recipe, given, format_name, nms, output, console())
