"""`paretrim export` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli_parts import console, needing

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
    with needing():
        from search.export import export as carry_out
    carry_out(run, tuple(point or ()), format_name, nms, output, console())
