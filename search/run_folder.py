"""The folder of a run: this module owns every path in it.

runs/search/exp/
study.yaml      settings, seed, versions, digests
journal.jsonl   every evaluation (the truth)
front.csv  picks.json  front.png
report.json  report.html    what the page shows, and the page
models/ID/      model.onnx, recipe.json
measured/       files that were timed on a device
tensorboard/    with --track tensorboard
recover/        trainings of `paretrim recover` and what became of them
status.json     how a running search stands, for those who watch
log.txt
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hw_models.errors import CorruptRunError, InputError
from search.settings import Settings


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def study(self) -> Path:
        """Resolved settings, seed, versions and digests."""
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        """Every evaluation."""
        return self.path / "journal.jsonl"

    @property
    def front(self) -> Path:
        """One row a point of the front, and the dense model."""
        return self.path / "front.csv"

    @property
    def picks(self) -> Path:
        """The best point for each budget."""
        return self.path / "picks.json"

    @property
    def picture(self) -> Path:
        """The front as a picture."""
        return self.path / "front.png"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def report_data(self) -> Path:
        """What the page shows: enough to make it again."""
        return self.path / "report.json"

    @property
    def status(self) -> Path:
        """How a running search stands."""
        return self.path / "status.json"

    @property
    def log(self) -> Path:
        """What was done, one line a step."""
        return self.path / "log.txt"

    @property
    def measured(self) -> Path:
        """Files that were timed on a device, by candidate."""
        return self.path / "measured"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def recovery(self) -> Path:
        """What `paretrim recover` keeps."""
        return self.path / "recover"

    @property
    def recovered(self) -> Path:
        """One record a recovered point."""
        return self.recovery / "points"

    @property
    def searched_front(self) -> Path:
        """The front of the search alone, kept when recovered points are in `front`."""
        return self.recovery / "front.csv"

    def model(self, point_id: str) -> Path:
        """Return the folder of one point's files, made if it is not there."""
        folder = self.path / "models" / point_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_study(self, settings: Settings, resolved: dict[str, Any]) -> None:
        """Write study.yaml: the settings and what they resolved to."""
        content = {"settings": settings.model_dump(mode="json"), "resolved": resolved}
        write_whole(self.study, yaml.safe_dump(content, sort_keys=False))

    def read_settings(self) -> Settings:
        """Return the settings a run was started with.

        Raises:
            InputError: There is no run here.
            CorruptRunError: study.yaml cannot be read.
        """
        if not self.study.is_file():
            raise InputError(
                f"--resume {self.path}: expected the folder of a run, with a study.yaml in it.",
                "Runs lie in runs/search/ unless --project says otherwise.",
            )
        try:
            return Settings.model_validate(yaml.safe_load(self.study.read_text())["settings"])
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CorruptRunError(f"{self.study}: not the settings of a run ({reason}).") from error


def new_run(project: Path, name: str, exist_ok: bool) -> RunFolder:
    """Make the folder of a new run: NAME, or NAME2, NAME3, ... where it is taken.

    Raises:
        InputError: With `exist_ok`, the folder already holds a run, which would be overwritten; or
            the folder cannot be made.
    """
    path = project / name
    number = 2
    while path.exists() and not exist_ok:
        path = project / f"{name}{number}"
        number += 1
    run = RunFolder(path)
    if run.journal.exists():
        raise InputError(
            f"{path}: holds a run already.", f"Go on with it by --resume {path}, or give --name."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}).", "Give --project."
        ) from error
    return run


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old or the new content."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
