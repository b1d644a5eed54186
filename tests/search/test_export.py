"""`paretrim export` and `apply` on a real run, and what they refuse."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from evaluators.verify import verify
from hw_models.errors import CorruptRunError, InputError
from search.apply import apply
from search.deliver import check_delivered
from search.export import export
from search.finished import Finished, read_finished
from search.problem import accuracy
from spaces.formats import FORMATS
from spaces.quantization.calibrate import calibrate_activations
from tests.search.conftest import answered, call
from tests.search.test_cli import assert_one_paragraph

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the run that these tests may write into."""
    copy = tmp_path_factory.mktemp("export") / "exp"
    shutil.copytree(searched, copy)
    return copy


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put log handlers back, which a command sets for its process."""
    before = logging.getLogger().handlers
    yield
    logging.getLogger().handlers = before


@pytest.fixture(scope="module")
def finished(run: Path) -> Finished:
    return read_finished(run)


def pick_of(run: Path) -> str:
    return str(json.loads((run / "picks.json").read_text())[0]["id"])


def recipe_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return content


def test_what_was_measured_of_an_equal_file_is_not_forgotten(run: Path) -> None:
    folder = run / "models" / pick_of(run)
    recipe, content = recipe_of(folder), (folder / "model.onnx").read_bytes()
    assert "measured" not in recipe
    try:
        recipe["measured"] = {"latency_ms": 7.5}
        (folder / "recipe.json").write_text(json.dumps(recipe))
        export(run, [pick_of(run)], "onnx", None, None, QUIET)
        assert recipe_of(folder)["measured"] == {"latency_ms": 7.5}
        assert (folder / "model.onnx").read_bytes() == content
        (folder / "model.onnx").write_bytes(content + b" ")
        export(run, [pick_of(run)], "onnx", None, None, QUIET)
        assert "measured" not in recipe_of(folder)
    finally:
        (folder / "model.onnx").write_bytes(content)


def test_any_point_of_the_front_is_exported_and_its_row_says_so(run: Path) -> None:
    with (run / "front.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    name = next(n for n in rows if n not in (pick_of(run), "dense"))
    assert rows[name]["map50_95_exported"] == ""
    done = call("export", run, "--point", name)
    assert done.returncode == 0, done.stderr
    assert "onnx-tensorrt" in done.stdout
    with (run / "front.csv").open() as file:
        after = {row["id"]: row for row in csv.DictReader(file)}
    recipe = recipe_of(run / "models" / name)
    file_accuracy = float(after[name].pop("map50_95_exported"))
    assert file_accuracy == pytest.approx(recipe["exported"]["map50_95"], rel=1e-4)
    del rows[name]["map50_95_exported"]
    assert after == rows  # nothing else changed
    assert recipe["exported"]["bytes"] == (run / "models" / name / "model.onnx").stat().st_size
    assert recipe["exported"]["largest_difference"] < 0.05


def test_other_formats_get_folders_of_their_own(run: Path) -> None:
    name = pick_of(run)
    before = (run / "models" / name / "recipe.json").read_bytes()
    for form in ("openvino", "packed"):
        export(run, [name], form, None, None, QUIET)
        assert (run / "models" / name / form / FORMATS[form].file).is_file()
        found = recipe_of(run / "models" / name / form)["exported"]
        assert found["format"] == form
        assert found["runtime"] in ("openvino", "torch")
    assert (run / "models" / name / "recipe.json").read_bytes() == before
    assert not list((run / "models").rglob("*.part"))


def test_a_file_with_suppression_is_as_accurate(run: Path, tmp_path: Path) -> None:
    export(run, [pick_of(run)], "onnx", 0.05, tmp_path / "nms", QUIET)
    found = recipe_of(tmp_path / "nms")["exported"]
    assert found["min_score"] == 0.05
    assert 0 < found["map50_95"] <= 1


def test_a_file_that_is_not_what_was_promised_is_an_error(
    finished: Finished, tmp_path: Path
) -> None:
    problem = finished.problem
    (pick,) = finished.choose([])
    evaluator = problem.build()
    model = evaluator.compressed(pick.candidate)
    dense = evaluator.compressed(problem.dense())
    form = FORMATS["onnx-tensorrt"]
    path = form.write(dense, tmp_path)
    with pytest.raises(CorruptRunError, match="not what was promised"):  # another network
        verify(form, path, model, problem.validation, accuracy(pick.score))
    with pytest.raises(CorruptRunError, match=r"expected mAP50-95 0\.9900 within 0\.01"):
        verify(form, path, dense, problem.validation, 0.99)
    layers = [layer for layer, _, _ in pick.candidate.bits][:3]
    scales = calibrate_activations(dense.detector, dense.images)
    promised = replace(dense, bits=dict.fromkeys(layers, (8, 8)), scales=scales)
    with pytest.raises(CorruptRunError, match="expected 3 convolutions in integers, got 0"):
        verify(form, path, promised, problem.validation, 0.99, min_score=0.5)


@torch.no_grad()
def test_a_file_that_computes_nan_is_an_error(finished: Finished, tmp_path: Path) -> None:
    problem = finished.problem
    dense = problem.build().compressed(problem.dense())
    form = FORMATS["onnx-tensorrt"]
    next(dense.detector.net.parameters())[0] = float("nan")
    path = form.write(dense, tmp_path)
    with pytest.raises(CorruptRunError, match=r"not what was promised: \d+ of \d+ output values"):
        verify(form, path, dense, problem.validation, 0.0)


def test_a_run_ends_with_an_error_if_a_file_failed(finished: Finished) -> None:
    (pick,) = finished.choose([])
    check_delivered([pick], {pick.id: 0.5})
    with pytest.raises(CorruptRunError, match=f"files of {pick.id} are not what"):
        check_delivered([pick], {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format_name": "caffe"}, "--format caffe: expected one of onnx, onnx-tensorrt"),
        ({"points": ["p99"]}, "--point p99"),
        ({"min_score": 25.0}, "--nms 25"),
        ({"format_name": "packed", "min_score": 0.25}, "--format packed"),
        ({"points": ["p01", "dense"], "output": Path("x")}, "expected one point, got p01, dense"),
    ],
)
def test_wrong_options_are_named(run: Path, arguments: dict[str, Any], words: str) -> None:
    given = {"points": ["p01"], "format_name": "onnx", "min_score": None, "output": None}
    with pytest.raises(InputError) as caught:
        export(run, **{**given, **arguments}, console=QUIET)
    assert words in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert_one_paragraph(answered("export", tmp_path, cwd=tmp_path), 2, "study.yaml", str(tmp_path))


def test_a_recipe_and_the_dense_weights_make_the_point_again(run: Path, tmp_path: Path) -> None:
    name = pick_of(run)
    recipe = run / "models" / name / "recipe.json"
    done = call("apply", recipe, "--weights", "demo", "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    again = (tmp_path / "again" / "model.onnx").read_bytes()
    assert again == (run / "models" / name / "model.onnx").read_bytes()
    made, old = recipe_of(tmp_path / "again"), json.loads(recipe.read_text())
    for key in ("candidate", "model_digest", "weights_digest", "protocol", "exported"):
        assert made[key] == old[key]


def _damage(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe.update(changes)


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(recipe: dict[str, Any]) -> None:
        for key in path[:-1]:
            recipe = recipe[key]
        recipe[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damage(format="other"), "not a recipe"),
        (_damage(candidate={"imgsz": "x"}), "not a recipe"),
        (_damage(id="../../etc"), "letters and digits"),
        (_damage(score={}), "not a recipe"),
        (_set("candidate", "imgsz", value=10**9), "imgsz 1000000000"),
        (_set("candidate", "kept", value=[["nothing", 3]]), "nothing"),
        (_set("candidate", "kept", value=[["model.1", 10**6]]), "model.1"),
        (_set("candidate", "bits", value=[["model.0.conv", 1, 1]]), "1 bits"),
        (_set("settings", "trust_checkpoint", value=True), "may not set trust_checkpoint"),
        (_set("settings", "weights", value="/etc/passwd"), "/etc/passwd"),
        (_set("settings", "prune", value="__import__('os')"), "__import__"),
        (_set("settings", "surprise", value=1), "surprise"),
        (_damage(protocol="0" * 64), "other images"),
        (_damage(recovered={"weights_digest": "0"}), "weights.safetensors"),
    ],
)
def test_hostile_and_mismatching_recipes_are_refused(
    damage: Callable[[dict[str, Any]], None], words: str, run: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(run / "models" / pick_of(run))
    damage(recipe)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    with pytest.raises(InputError) as caught:
        apply(path, {}, "onnx", None, tmp_path / "out", QUIET)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b"null"])
def test_what_is_no_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a recipe"):
        apply(path, {}, "onnx", None, tmp_path / "out", QUIET)


def test_weights_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    recipe = run / "models" / pick_of(run) / "recipe.json"
    other = tmp_path / "other.yaml"
    other.write_text("from: nowhere")
    with pytest.raises(InputError, match=r"other\.yaml"):
        apply(recipe, {"weights": str(other)}, "onnx", None, tmp_path / "out", QUIET)
    with pytest.raises(InputError, match="made for weights with the digest"):
        apply(recipe, {"weights": "yolov5n.yaml"}, "onnx", None, tmp_path / "out", QUIET)
