from __future__ import annotations

from pathlib import Path

import pytest

from hw_models.errors import CorruptRunError, InputError
from search.run import read_settings
from search.run_folder import RunFolder, new_run, write_whole


def test_names_are_counted_up(tmp_path: Path) -> None:
    assert [new_run(tmp_path, "exp", exist_ok=False).path.name for _ in range(3)] == [
        "exp",
        "exp2",
        "exp3",
    ]


def test_exist_ok_uses_the_folder_but_never_overwrites_a_run(tmp_path: Path) -> None:
    run = new_run(tmp_path, "exp", exist_ok=True)
    assert new_run(tmp_path, "exp", exist_ok=True).path == run.path
    run.journal.touch()
    with pytest.raises(InputError, match="--resume"):
        new_run(tmp_path, "exp", exist_ok=True)


def test_settings_are_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    settings = read_settings({"latency": ("20ms", "60%"), "ignore": ("re:model.0.*",)})
    run.write_study(settings, {"dense_latency_ms": 1.0})
    assert run.read_settings() == settings


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.yaml"):
        RunFolder(tmp_path).read_settings()


@pytest.mark.parametrize("content", ["", "settings: 3", "{", "settings: {latency: [30]}"])
def test_damaged_settings(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.study.write_text(content)
    with pytest.raises(CorruptRunError, match="not the settings"):
        run.read_settings()


def test_write_whole_leaves_no_part_behind(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"
