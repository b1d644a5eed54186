"""What a user sees while a run goes on: a bar on a terminal, one line a step in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def start_logging(console: Console) -> None:
    """Send this project's log lines to the console: styled on a terminal, plain elsewhere."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for name in ("search", "evaluators", "spaces", "hw_models"):
        logging.getLogger(name).setLevel(logging.INFO)
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(LINE_FORMAT, "%H:%M:%S"))
    root.handlers = [handler]


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write all log lines to a file as well, as long as the context lasts."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(LINE_FORMAT))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def progress_bar(console: Console) -> Progress:
    """Return the bar for all stages; it draws only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
