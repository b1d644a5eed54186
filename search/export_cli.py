"""`paretrim export` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hw_models.errors import InputError

LOG_WIDTH = 160  # of tables where standard output is no terminal

FORMAT_HELP = (
    "onnx (in the form the target is fast with), onnx-tensorrt, onnx-cpu, openvino, trtexec,"
    " packed, shared"
)
NMS_HELP = "non-maximum suppression in the graph, for detections of at least this score: 0.25"


def export(
    run: Annotated[Path, typer.Argument(help="the folder of a finished search")],
    point: Annotated[
        list[str] | None, typer.Option(help="id in front.csv; repeatable [the picks]")
    ] = None,
    format_name: Annotated[str, typer.Option("--format", help=FORMAT_HELP)] = "onnx",
    nms: Annotated[float | None, typer.Option(help=NMS_HELP)] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder for the files of one point [models/ID in the run]")
    ] = None,
) -> None:
    """Export points of a run and verify the files: loaded, compared, counted, measured."""
    # Imported here: torch, ray and ultralytics take seconds, and the other commands need none.
    try:
        from search.export import export as carry_out
    except ModuleNotFoundError as error:
        raise InputError(
            f"Exporting needs {error.name}, which is not installed.",
            "pip install 'paretrim[search]'",
        ) from error
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    carry_out(run, tuple(point or ()), format_name, nms, output, console)
