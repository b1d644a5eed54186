from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hw_models import member
from hw_models.client import DeviceClient
from hw_models.devices_cli import devices
from hw_models.golden import golden
from hw_models.measurement import MeasureProtocol

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
    for expected in (
        worker.address, "serving, good", " ms", "onnxruntime", "fp32 int8", "fixed", "idle",
    ):  # fmt: skip
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


def test_one_that_computes_wrongly_is_quarantined(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = replace(golden().expected, mean=9.9)
    monkeypatch.setattr(member, "golden", lambda: replace(golden(), expected=expected))
    result = run(worker.address)
    assert result.exit_code == 4
    assert "serving, quarantined" in result.output
    assert "computes wrongly" in result.output


def test_one_that_is_busy_is_not_disturbed(worker: Any) -> None:
    protocol = MeasureProtocol(min_time_s=5.0)
    with DeviceClient(worker.address) as client, ThreadPoolExecutor(1) as threads:
        digest = client.upload(golden().model)
        measuring = threads.submit(client.measure, digest, protocol)
        while not client.info().busy:
            assert not measuring.done()
        result = run(worker.address)
        assert not measuring.done()
        assert measuring.result().latency_ms > 0
    assert result.exit_code == 0, result.output
    assert "serving, unknown" in result.output
    assert "not asked" in result.output
