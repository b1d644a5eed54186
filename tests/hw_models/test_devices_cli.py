from __future__ import annotations

import socket
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hw_models.devices_cli import devices

APP = typer.Typer()
APP.command()(devices)


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"})


def test_a_worker_that_serves(worker: Any) -> None:
    result = run(worker.address)
    assert result.exit_code == 0, result.output
    for expected in (worker.address, "serving", "onnxruntime", "fp32 int8", "fixed", "idle"):
        assert expected in result.output


def test_clocks_are_shown(faulty: Any) -> None:
    result = run(faulty().address)
    assert result.exit_code == 0, result.output
    assert "17000000.gp10b 1300, cpu 2035" in result.output


def test_one_that_does_not_answer_is_shown_beside_the_others(worker: Any, nobody: str) -> None:
    result = run(worker.address, nobody)
    assert result.exit_code == 4
    assert "serving" in result.output
    assert "no answer" in result.output
    assert "UNAVAILABLE" in result.output
