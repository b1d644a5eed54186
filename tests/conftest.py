"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Two OpenMP threads on two busy cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="paretrim-yolo-"))

REPOSITORY = Path(__file__).resolve().parents[1]


OF_SEARCH = REPOSITORY / "tests" / "search"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Two files at a time, but those of the search one after the other.

    Ray clusters that start at the same moment race for ports.
    """
    group = OF_SEARCH if OF_SEARCH in item.path.parents else item.path
    item.add_marker(pytest.mark.xdist_group(str(group)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the search: it takes longest."""
    items.sort(key=lambda item: OF_SEARCH not in item.path.parents)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights, images and measurements beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("real data not here: no folder 'shared' beside the repository")
    return folder
