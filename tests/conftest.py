"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Two OpenMP threads on two busy cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray lets its actors give way to all else: beside other tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="paretrim-yolo-"))
_DATABASE = tempfile.TemporaryDirectory(prefix="paretrim-database-")  # goes when the tests end
os.environ.setdefault("PARETRIM_CACHE", _DATABASE.name)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights, images and measurements beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("real data not here: no folder 'shared' beside the repository")
    return folder
