"""`paretrim recover` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli_parts import console, needing


def recover(
    run: Annotated[Path, typer.Argument(help="the folder of a finished search")],
    point: Annotated[
        list[str] | None, typer.Option(help="id in front.csv; repeatable [the picks]")
    ] = None,
    trials: Annotated[int, typer.Option(help="trainings a point, with different settings")] = 2,
    epochs: Annotated[
        int | None, typer.Option(help="of the longest training [8000 images seen]")
    ] = None,
    rounding: Annotated[
        str, typer.Option(help="how layers of few bits are trained: lsq, nipq, drgs")
    ] = "lsq",
    splice: Annotated[
        bool, typer.Option("--splice", help="sparse layers: removed weights may come back")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="no training data: every layer learns the dense one's outputs (global AdaPrune)",
        ),
    ] = False,
    slimming: Annotated[
        str | None,
        typer.Option(help="pull batch-norm scales to zero: plain, cosine, asr, crlst, soft"),
    ] = None,
    gradual: Annotated[
        bool, typer.Option("--gradual", help="the dense model loses its channels step by step")
    ] = False,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="learn from the dense model alone")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of all random choices")] = 0,
) -> None:
    """Fine-tune points of a search with Ray Tune, and put them into its front.

    Given again after an interruption, the same command goes on where it was.
    """
    with needing():
        from search.recover.command import recover as carry_out
        from search.recover.wish import Treatment, Wish
    treatment = Treatment(rounding, splice, layers, slimming, gradual)
    wish = Wish(tuple(point or ()), trials, epochs, treatment, not no_labels, seed)
    carry_out(run, wish, console())
