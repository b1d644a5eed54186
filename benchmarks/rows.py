"""Finished rows of a long table, kept in a file: what is there is not measured again.

One JSON object a line, `{"row": name, ...}`, of equal names the last one. Rows are measured again
when their lines are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def kept_row(path: Path, row: str, measure: Callable[[], Figures]) -> Figures:
    """Return the figures of a row, measured now if the file does not have them.

    Args:
        path: The file; made when the first row is done.
        row: What was measured, with everything that it depends on.
        measure: How; plain values for JSON.
    """
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        known = [line for line in lines if line["row"] == row]
        if known:
            return dict(known[-1])
    figures = {"row": row, **measure()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(figures) + "\n")
    return figures
