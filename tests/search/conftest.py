"""A tiny data set on disk, in the layout users have."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from evaluators.demo import demo_dataset
from evaluators.demo.generator import IMAGE_SIZE, NAMES
from search.cli import main

ROOT = Path(__file__).resolve().parents[2]
IMGSZ = 128


def paretrim(*arguments: str | Path) -> list[str]:
    program = "from search.cli import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        paretrim(*arguments), capture_output=True, text=True, timeout=500, cwd=ROOT
    )


def answered(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call the command line in this process, which has torch already: for what ends at once."""
    handlers, code = logging.getLogger().handlers, 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        try:
            main([*map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
    logging.getLogger().handlers = handlers
    return subprocess.CompletedProcess(
        [*map(str, arguments)], code, stdout.getvalue(), stderr.getvalue()
    )


@pytest.fixture(scope="module", autouse=True)
def _own_ray() -> Iterator[None]:
    """Shut down the Ray that a recovery in this process keeps for the next one."""
    yield
    ray.shutdown()


def write_yolo(folder: Path, split: str, count: int) -> None:
    """Write images of the demo data set and their YOLO labels."""
    data = demo_dataset(split, count)
    (folder / "images" / split).mkdir(parents=True)
    (folder / "labels" / split).mkdir(parents=True)
    for image_id, image in zip(data.image_ids, data.images, strict=True):
        (folder / "images" / split / f"{image_id:04d}.png").write_bytes(image)
        rows = []
        for a in data.annotations:
            if a.image_id == image_id:
                left, top, width, height = a.box_xywh
                values = (left + width / 2, top + height / 2, width, height)
                rows.append(
                    " ".join([str(a.class_index), *(f"{v / IMAGE_SIZE:.6f}" for v in values)])
                )
        (folder / "labels" / split / f"{image_id:04d}.txt").write_text("\n".join(rows))


def write_data(file: Path, val: int, train: int) -> Path:
    """Write so many images of the demo data set beside their data YAML, and return that."""
    write_yolo(file.parent, "val", val)
    write_yolo(file.parent, "train", train)
    content = {"train": "images/train", "val": "images/val", "names": list(NAMES)}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of 12 validation and 8 training images."""
    return write_data(tmp_path_factory.mktemp("tiny") / "tiny.yaml", val=12, train=8)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search the demo detector at a small size for a pick that lost much. Not to be changed.

    Its channels are ranked by a criterion that loses more than the default one.
    """
    folder = tmp_path_factory.mktemp("searched")
    done = call(
        "search", "--data", write_data(folder / "data.yaml", val=16, train=96),
        "--imgsz", str(IMGSZ), "--latency", "90%",
        "--method", "uniform", "--evals", "6", "--actors", "0", "--project", folder,
        "--target", "jetson-tx2", "--prune", "activation",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "exp"
