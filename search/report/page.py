"""report.html: one file, readable offline, in light and dark, on a phone and on a desk.

The page is the report's value as JSON, and a script that draws it. plotly.js goes in compressed:
browsers unpack it themselves, and the page has a third of the size.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import asdict, is_dataclass
from functools import cache
from html import escape
from importlib.resources import files
from json import dumps
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from search.report.value import Report


def render_page(report: Report) -> str:
    """Return the page of a run."""
    sentences = "".join(f"<li>{escape(verdict.sentence)}</li>" for verdict in report.verdicts)
    return compose("report", report.title, report, sentences)


def compose(name: str, title: str, value: Any, fallback: str) -> str:
    """Return a self-contained page.

    Args:
        name: Of the page's files in `assets`: NAME.html and NAME.js.
        title: Of the page.
        value: What the script draws; a dataclass.
        fallback: HTML list items for readers without JavaScript.
    """
    assert is_dataclass(value)
    assert not isinstance(value, type)
    data = dumps(asdict(value), separators=(",", ":"), ensure_ascii=False)
    return Template(_asset(f"{name}.html")).substitute(
        title=escape(title),
        css=_asset("page.css"),
        data=data.replace("<", "\\u003c"),
        plotly=_plotly(),
        script=_asset("common.js") + _asset(f"{name}.js"),
        fallback=fallback,
    )


@cache
def _asset(name: str) -> str:
    return files("search.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
