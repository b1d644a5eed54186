"""report.html: one self-contained page for a run, readable offline, in light and dark."""

from __future__ import annotations

import base64
from html import escape
from string import Template

from search.outputs import Result, describe_pick, front_rows
from search.problem import Problem, accuracy

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: #fff; border-radius: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #8884; }
tr.dense td { font-style: italic; } tr.pick td { font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
<ul>$picks</ul>
<p>Latency and energy are <strong>predicted</strong> by the hardware model of $target; the interval
holds 90 % of its errors. $measured
mAP is measured on the $images validation images, by which the points were also chosen: a test set
of your own will show a little less. The column <em>file</em> is that of the exported ONNX
model.</p>
<img src="data:image/png;base64,$picture" alt="Accuracy against predicted latency">
<h2>Front</h2>
<div class="scroll"><table><thead><tr>$head</tr></thead><tbody>$rows</tbody></table></div>
<p><em>beats stock</em>: more accurate than the dense model with a smaller input at the same
latency.</p>
<h2>Dense model, input size scaled</h2>
<ul>$dense</ul>
<h2>Settings</h2>
<dl>$settings</dl>
</body>
</html>
""")

_HEADERS = {
    "id": "id", "map50_95": "mAP50-95", "map50": "mAP50", "map50_95_exported": "file",
    "latency_ms": "latency ms", "latency_low_ms": "low", "latency_high_ms": "high",
    "measured_ms": "measured ms",
    "energy_mj": "mJ", "size_mb": "MB", "macs_g": "GMACs", "params_m": "Mparams", "imgsz": "px",
    "meets": "meets", "beats_stock": "beats stock", "method": "from",
}  # fmt: skip


def render_page(picture: bytes, problem: Problem, result: Result) -> str:
    """Return the page.

    Args:
        picture: front.png.
        problem: What was searched.
        result: What was found.
    """
    rows = front_rows(problem, result)
    picked = {p.id for limit in result.limits if (p := result.pick(limit)) is not None}
    settings = problem.settings.model_dump(mode="json", exclude_defaults=True)
    sentences = [describe_pick(result, limit) for limit in result.limits]
    return _PAGE.substitute(
        title=escape(f"Compressed {problem.settings.weights} on {problem.settings.target}"),
        target=escape(problem.settings.target),
        images=len(problem.validation.images),
        measured=escape(_measured(result)),
        picks="".join(f"<li>{escape(sentence)}</li>" for sentence in sentences),
        picture=base64.b64encode(picture).decode(),
        head="".join(f"<th>{title}</th>" for title in _HEADERS.values()),
        rows="".join(_row(row, row["id"] in picked) for row in rows),
        dense="".join(
            f"<li>{p.candidate.imgsz} px: mAP50-95 {accuracy(p.score):.3f}, "
            f"{p.cost.latency_ms:.2f} ms</li>"
            for p in result.dense
        ),
        settings="".join(
            f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>"
            for key, value in settings.items()
        ),
    )


def _measured(result: Result) -> str:
    """Say what of the page was measured, and on what."""
    timed = result.time(result.dense[0])
    if timed is None:
        return "Nothing on this page was measured on a device."
    return (
        f"The column measured is the median latency of the exported file on {timed.device}; the "
        "predictions are corrected by the dense model's. Points without it were not measured."
    )


def _row(row: dict[str, object], picked: bool) -> str:
    kind = "dense" if row["id"] == "dense" else "pick" if picked else ""
    cells = "".join(f"<td>{escape(_cell(row[column]))}</td>" for column in _HEADERS)
    return f'<tr class="{kind}">{cells}</tr>'


def _cell(value: object) -> str:
    """Round a figure to four digits; leave other text alone."""
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)
