"""What the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hw_models.errors import InputError

LOG_WIDTH = 150  # of tables where standard output is no terminal

TrustCheckpoint = Annotated[
    bool, typer.Option("--trust-checkpoint", help="run the code in the .pt file, if it needs that")
]


def console() -> Console:
    """Return standard output."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)


@contextmanager
def needing(extra: str = "search") -> Iterator[None]:
    """Import what a command needs; say what to install where it is not there.

    Commands import inside: torch, ray and ultralytics take seconds, and the others need none.

    Raises:
        InputError: A module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"This command needs {error.name}, which is not installed.",
            f"pip install 'paretrim[{extra}]'",
        ) from error


def file_or_name(text: str | None) -> str | None:
    """Make a path absolute, so that the run can be resumed from elsewhere; keep a plain name."""
    if text is None or not Path(text).exists():
        return text
    return str(Path(text).resolve())
