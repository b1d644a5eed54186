"""A tiny data set on disk and in memory, shared by the tests of the evaluators."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluators.annotations import Annotation
from evaluators.dataset import Dataset

torch.set_num_threads(1)  # as an actor has; several threads on few busy cores wait for each other

NAMES = ("square", "disc")


def painted(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A noisy picture with one bright square."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    image[10:30, 20:40] = 250
    return image


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    """Four images of a square each, the last one background; returns the folder of data.yaml."""
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val").mkdir(parents=True)
    for seed in range(4):
        (tmp_path / "images" / "val" / f"{seed}.jpg").write_bytes(encoded(painted(seed), ".jpg"))
        if seed < 3:
            label = tmp_path / "labels" / "val" / f"{seed}.txt"
            label.write_text("0 0.375 0.333333 0.25 0.333333\n")
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: [square, disc]\n")
    return tmp_path


@pytest.fixture
def tiny() -> Dataset:
    """Two 100 x 100 images in memory: one square and one disc; two squares."""
    return Dataset(
        NAMES,
        tuple(encoded(painted(seed, 100, 100)) for seed in range(2)),
        (7, 9),
        ((100, 100), (100, 100)),
        (
            Annotation(7, 0, (10.0, 10.0, 40.0, 40.0), 1600.0),
            Annotation(7, 1, (60.0, 60.0, 20.0, 20.0), 400.0),
            Annotation(9, 0, (0.0, 0.0, 50.0, 50.0), 2500.0),
            Annotation(9, 0, (50.0, 50.0, 50.0, 50.0), 2500.0),
        ),
    )
