"""paretrim from Python: search, look at the front, export and recover points.

    from search.api import load_front, search

    front = search(weights="demo", latency=("30ms",), evals=40, actors=0)
    point = front.best(latency_ms=3.5)
    file = point.export("onnx")
    better = point.recover(epochs=20)

What `search` takes are the options of the command line under their names there (`--max-drop` is
`max_drop`); everything it does, it does in the run's folder, so that the command line can go on
with it and the other way round.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hw_models.errors import CorruptRunError, InfeasibleError
from search.export import Exported, check_min_score, export_points, find_format
from search.finished import Finished, read_finished
from search.front import Point
from search.problem import accuracy
from search.progress import logging_to
from search.recover.command import carry_out
from search.recover.wish import Treatment, Wish, check
from search.run import new_search

log = logging.getLogger(__name__)

SEVERAL = ("imgsz", "latency", "bits", "act_bits", "pattern", "ignore", "measure_on")
"""Options that take several values; a single one may be given plainly."""


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One point of a run.

    Attributes:
        id: Its name in front.csv.
        method: What found it; `recover` for one that was trained.
        imgsz: Input size in pixels.
        map50_95: On all validation images.
        latency_ms: Predicted for the target.
        low_ms: Lower end of the 90 % interval of the prediction.
        high_ms: Its upper end.
        energy_mj: Predicted; NaN where the target has no energy model.
        size_bytes: Predicted size of what is stored.
        folder: Of the run.
    """

    id: str
    method: str
    imgsz: int
    map50_95: float
    latency_ms: float
    low_ms: float
    high_ms: float
    energy_mj: float
    size_bytes: float
    folder: Path

    def export(
        self, format: str = "onnx", *, output: Path | str | None = None, nms: float | None = None
    ) -> Exported:
        """Write the point in a format and verify the file; see `paretrim export`.

        Args:
            format: `onnx` (in the form the target is fast with) or a key of
                `spaces.formats.FORMATS`.
            output: Folder for the files; None = in the run's `models/ID`.
            nms: Least score of detections, with non-maximum suppression in the graph.

        Raises:
            InputError: An unknown format, or one that cannot hold the point.
            CorruptRunError: The file is not what was promised.
        """
        check_min_score(nms)
        finished = read_finished(self.folder)
        form = find_format(format, finished.problem)
        points = finished.choose([self.id])
        with logging_to(finished.run.log):
            (exported,) = export_points(
                finished, points, form, nms, None if output is None else Path(output)
            )
        return exported

    def recover(
        self,
        *,
        trials: int = 2,
        epochs: int | None = None,
        treatment: Treatment | None = None,
        labels: bool = True,
        seed: int = 0,
    ) -> FrontPoint:
        """Fine-tune the point with Ray Tune and return the new one; see `paretrim recover`.

        Raises:
            InputError: An option is wrong, or the data set has no training images.
            CorruptRunError: No training ended well, or a file is not what was trained.
            DeviceError: The devices of a search that measured have trouble; the point is there.
        """
        wish = Wish((self.id,), trials, epochs, treatment or Treatment(), labels, seed)
        check(wish)
        finished = read_finished(self.folder)
        with logging_to(finished.run.log):
            names = carry_out(finished, wish)
        finished = read_finished(self.folder)
        finished.write()
        if not names:
            raise CorruptRunError(
                f"{self.id}: no training ended well; {finished.run.log} says why.",
                "Give other settings, or more trials.",
            )
        (point,) = finished.choose(names)
        return _shown(finished, point)


@dataclass(frozen=True, slots=True)
class Front:
    """The front of a finished run.

    Attributes:
        points: Mutually non-dominated points, fastest first; recovered ones among them.
        dense: The uncompressed model at its largest input size.
        folder: Of the run.
    """

    points: tuple[FrontPoint, ...]
    dense: FrontPoint
    folder: Path

    def best(
        self,
        *,
        latency_ms: float | None = None,
        energy_mj: float | None = None,
        size_bytes: float | None = None,
    ) -> FrontPoint:
        """Return the most accurate point within limits; the faster one of equals.

        Raises:
            InfeasibleError: No point is within all limits.
        """
        limits = {"latency_ms": latency_ms, "energy_mj": energy_mj, "size_bytes": size_bytes}
        asked = {name: limit for name, limit in limits.items() if limit is not None}
        within = [
            point
            for point in self.points
            if all(getattr(point, name) <= limit for name, limit in asked.items())
        ]
        if not within:
            lowest = ", ".join(
                f"{name} {min(getattr(point, name) for point in self.points):.4g}" for name in asked
            )
            raise InfeasibleError(
                f"No point of {self.folder} is within"
                f" {', '.join(f'{name} {limit:g}' for name, limit in asked.items())};"
                f" the lowest are {lowest}.",
                "Search with tighter budgets, or ask for less.",
            )
        return max(within, key=lambda point: (point.map50_95, -point.latency_ms))


def search(
    *,
    project: Path | str = "runs/search",
    name: str = "exp",
    exist_ok: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Front:
    """Search and return the front; see `paretrim search`.

    Args:
        project: Where runs are kept.
        name: Of the run's folder; NAME2, NAME3, ... where it is taken.
        exist_ok: Use the folder if it is there.
        console: Where progress and the table go; None = nowhere.
        options: Of `search.settings.Settings`.

    Raises:
        InputError: An option is wrong.
        InfeasibleError: No candidate can meet a budget.
    """
    given = {
        key: _several(value) if key in SEVERAL else value
        for key, value in options.items()
        if value is not None
    }
    for key in ("weights", "data", "target"):
        path = Path(str(given.get(key, "")))
        if key in given and path.exists():
            given[key] = str(path.resolve())
    run = new_search(given, Path(project), name, exist_ok, console or Console(quiet=True))
    return load_front(run.path)


def load_front(folder: Path | str) -> Front:
    """Return the front of a run that was searched before.

    Raises:
        InputError: No finished run lies there.
        CorruptRunError: Its files contradict each other.
    """
    finished = read_finished(Path(folder))
    points = tuple(_shown(finished, point) for point in finished.merged.front)
    return Front(points, _shown(finished, finished.searched.dense[0]), Path(folder))


def _several(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,)
    return tuple(value)


def _shown(finished: Finished, point: Point) -> FrontPoint:
    return FrontPoint(
        id=point.id,
        method=point.method,
        imgsz=point.candidate.imgsz,
        map50_95=accuracy(point.score),
        latency_ms=point.cost.latency_ms,
        low_ms=point.cost.low_ms,
        high_ms=point.cost.high_ms,
        energy_mj=point.cost.energy_mj,
        size_bytes=point.cost.size_bytes,
        folder=finished.run.path,
    )
