"""A tiny data set on disk, in the layout users have."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evaluators.demo import demo_dataset
from evaluators.demo.generator import IMAGE_SIZE, NAMES


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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of 12 validation and 8 training images."""
    folder = tmp_path_factory.mktemp("tiny")
    write_yolo(folder, "val", 12)
    write_yolo(folder, "train", 8)
    content = {"train": "images/train", "val": "images/val", "names": list(NAMES)}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"
