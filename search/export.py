"""`paretrim export RUN`: any point of a run as a file of any format, verified."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluators.evaluator import Evaluator
from evaluators.verify import Verified
from hw_models.errors import InputError
from search.deliver import make_recipe, native_format, write_verified
from search.finished import Finished, read_finished
from search.front import RECOVERED, Point
from search.problem import Problem, accuracy
from search.progress import logging_to, start_logging
from search.recover.weights import load_recovered
from search.run_folder import RunFolder, write_whole
from spaces.formats import FORMATS
from spaces.formats.interface import Compressed, Format

NATIVE = "onnx"


@dataclass(frozen=True, slots=True)
class Exported:
    """A delivered file.

    Attributes:
        point: What it is of.
        path: The main file.
        verified: What was found about it.
    """

    point: Point
    path: Path
    verified: Verified


def export(
    folder: Path,
    points: Sequence[str],
    format_name: str,
    min_score: float | None,
    output: Path | None,
    console: Console,
) -> None:
    """Export points of a run and print what was found about the files.

    Args:
        folder: Of a finished run.
        points: Ids; empty = the picks.
        format_name: `onnx` for the form of the run's target, or a key of `FORMATS`.
        min_score: See `Format.write`.
        output: Where to; None = in the run's `models/ID`.
        console: Where the table goes.

    Raises:
        InputError: No finished run, an unknown point or format, or one that cannot hold it.
        CorruptRunError: The run's files contradict each other, or a file is not as promised.
    """
    start_logging(console)
    check_min_score(min_score)
    finished = read_finished(folder)
    form = find_format(format_name, finished.problem)
    chosen = finished.choose(points)
    if output is not None and len(chosen) > 1:
        raise InputError(
            f"--output {output}: expected one point, got {', '.join(p.id for p in chosen)}.",
            "Name it with --point.",
        )
    with logging_to(finished.run.log):
        exported = export_points(finished, chosen, form, min_score, output)
    console.print(_table(exported))


def export_points(
    finished: Finished,
    points: Sequence[Point],
    form: Format,
    min_score: float | None = None,
    output: Path | None = None,
) -> list[Exported]:
    """Export points of a run, and note the accuracy of the target's own files in front.csv.

    Raises:
        InputError: The format cannot hold a point.
        CorruptRunError: A file is not what was promised.
    """
    run, problem = finished.run, finished.problem
    evaluator = problem.build()
    is_native = form.name == native_format(problem).name
    done = []
    for point in points:
        model = build(finished, evaluator, point)
        recipe = make_recipe(problem, point, model) | _recovered_part(run, point)
        plain = is_native and min_score is None
        inside = run.model(point.id) if plain else run.model(point.id) / _subfolder(form, min_score)
        folder = output or inside
        verified = write_verified(form, folder, problem, point, model, recipe, min_score=min_score)
        done.append(Exported(point, folder / form.file, verified))
        if plain and output is None:
            _note_exported(run, point.id, verified.map50_95)
    return done


def find_format(name: str, problem: Problem) -> Format:
    """Return a format by its name.

    Raises:
        InputError: There is none.
    """
    if name == NATIVE:
        return native_format(problem)
    if name not in FORMATS:
        raise InputError(
            f"--format {name}: expected one of {', '.join((NATIVE, *FORMATS))}.",
            f"{NATIVE} is the form that the run's target is fast with.",
        )
    return FORMATS[name]


def check_min_score(min_score: float | None) -> None:
    """Refuse what is no score.

    Raises:
        InputError: It is not between 0 and 1.
    """
    if min_score is not None and not 0 < min_score < 1:
        raise InputError(f"--nms {min_score:g}: expected the least score, such as 0.25.")


def build(finished: Finished, evaluator: Evaluator, point: Point) -> Compressed:
    """Return a point of a run, ready to be written: compressed anew, or as it was trained."""
    if point.method == RECOVERED:
        return load_recovered(finished.run, finished.problem, point)
    return evaluator.compressed(point.candidate)


def _subfolder(form: Format, min_score: float | None) -> str:
    return form.name if min_score is None else f"{form.name}-nms"


def _recovered_part(run: RunFolder, point: Point) -> dict[str, object]:
    """Return what the recipe of a recovered point says about its training."""
    path = run.model(point.id) / "recipe.json"
    if point.method != RECOVERED or not path.is_file():
        return {}
    return {"recovered": json.loads(path.read_text(encoding="utf-8")).get("recovered")}


def _note_exported(run: RunFolder, name: str, map50_95: float) -> None:
    for path in (run.front, run.searched_front):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
        for row in rows:
            if row["id"] == name:
                row["map50_95_exported"] = f"{map50_95:.6g}"
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())


def _table(exported: Sequence[Exported]) -> Table:
    table = Table(title="Exported and verified on this machine")
    for header in ("id", "format", "run by", "MB", "predicted MB", "mAP50-95", "file", "int8 convs",
                   "largest difference", "mean", "where"):  # fmt: skip
        table.add_column(header, overflow="fold")
    for one in exported:
        found = asdict(one.verified)
        table.add_row(
            one.point.id,
            found["format"],
            found["runtime"],
            f"{found['bytes'] / 1e6:.2f}",
            f"{one.point.cost.size_bytes / 1e6:.2f}",
            f"{accuracy(one.point.score):.4f}",
            f"{found['map50_95']:.4f}",
            str(found["integer_convolutions"]),
            *("" if found[name] is None else f"{found[name]:.2g}"
              for name in ("largest_difference", "mean_difference")),
            str(one.path),
        )  # fmt: skip
    return table
