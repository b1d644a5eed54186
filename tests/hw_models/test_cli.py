from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from hw_models.cli import add_commands
from hw_models.device import DEVICES
from hw_models.errors import InputError
from hw_models.networks import MEASUREMENTS

app = typer.Typer()
add_commands(app)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small network with a dynamic batch and image."""
    weights = [
        numpy_helper.from_array(np.ones((64, 3, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.ones((64, 64, 3, 3), np.float32), "v"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1, 1, 1, 1], name="second"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    return path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_predict_prints_json(model: Path) -> None:
    output = run("predict", model, "--target", "jetson-tx2", "--power-mode", "MAXP",
                 "--precision", "fp16", "--imgsz", "320,640", "--json", "--layers")  # fmt: skip
    result = json.loads(output)
    assert 0 < result["low_ms"] < result["latency_ms"] < result["high_ms"]
    assert result["energy_mj"] > 0
    assert result["macs"] == 320 * 640 * (64 * 27 + 64 * 576)
    assert result["prediction"] is True
    assert [layer["name"] for layer in result["layers"]] == ["first", "second"]
    assert result["warnings"] == []


def test_batch_and_precision_change_the_answer(model: Path) -> None:
    def predicted(*options: str) -> dict[str, float]:
        text = run("predict", model, "--imgsz", "320", "--json", *options)
        return dict(json.loads(text))

    one = predicted("--target", "jetson-xavier-nx")
    assert (
        predicted("--target", "jetson-xavier-nx", "--batch", "4")["latency_ms"] > one["latency_ms"]
    )
    int8 = predicted("--target", "jetson-xavier-nx", "--precision", "int8")
    assert int8["latency_ms"] < one["latency_ms"]
    assert int8["size_bytes"] == one["size_bytes"] / 2


def test_stored_only_precisions_are_named(model: Path) -> None:
    output = run("predict", model, "--imgsz", "320", "--precision", "int8")
    assert "executes them in 16 bits" in output
    assert "(prediction)" in output


def test_a_board_without_energy_figures_says_so(model: Path) -> None:
    options = ("predict", model, "--imgsz", "320", "--target", "jetson-nano")
    assert "not measured on this device" in run(*options)
    assert json.loads(run(*options, "--json"))["energy_mj"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "jetson-tx9"], "No device profile"),
        (["--power-mode", "TURBO"], "no power mode 'TURBO'"),
        (["--precision", "int4"], "--precision int4"),
        (["--imgsz", "big"], "--imgsz big"),
        (["--imgsz", "1,2,3"], "--imgsz 1,2,3"),
        ([], "dynamic input shape"),
    ],
)
def test_wrong_options_are_input_errors(model: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("predict", model, *options)


def test_predict_starts_quickly_and_without_torch(model: Path) -> None:
    code = (
        "import sys, time; start = time.monotonic(); import typer\n"
        "from hw_models.cli import add_commands\n"
        "app = typer.Typer(); add_commands(app)\n"
        f"app(['predict', {str(model)!r}, '--imgsz', '320', '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'scipy', 'ultralytics', 'search', 'spaces'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.monotonic() - start, file=sys.stderr)\n"
    )
    done = subprocess.run(  # noqa: S603 (our own interpreter and code)
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=DEVICES.parents[1],
    )  # fmt: skip
    assert json.loads(done.stdout)["latency_ms"] > 0
    assert float(done.stderr.split()[-1]) < 2.0


def test_calibrate_writes_the_shipped_profile(tmp_path: Path) -> None:
    output = tmp_path / "profile.yaml"
    table = MEASUREMENTS / "jetson-nano-yolobench.csv"
    text = run("calibrate", "--from", table, "--output", output)
    assert "50 rows of 7 networks" in text
    assert output.read_bytes() == (DEVICES / "jetson-nano-yolobench.yaml").read_bytes()


def test_calibrate_needs_a_profile_to_start_from(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text((MEASUREMENTS / "jetson-nano.csv").read_text())
    with pytest.raises(InputError, match="No profile 'mine'"):
        run("calibrate", "--from", table, "--output", tmp_path / "out.yaml")
