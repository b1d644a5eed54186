"""The client against a real worker and against one that makes mistakes."""

from __future__ import annotations

import hashlib
import math
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from hw_models import device_pb2 as pb
from hw_models.client import Credentials, DeviceClient, Timeouts, translate
from hw_models.errors import InputError
from hw_models.golden import PROTOCOL, check_outputs, golden
from hw_models.measurement import (
    Conditions,
    DeviceCallError,
    Measurement,
    MeasureProtocol,
    Retry,
)

from .conftest import CLOCKS_MHZ

SHORT = Timeouts(info_s=2.0, upload_s=5.0, measure_s=0.6)
QUICK = MeasureProtocol(warm_up=1, repeat=5, min_time_s=0.0)
LONG = MeasureProtocol(warm_up=1, number=100, repeat=5, min_time_s=600.0)
TOKEN = "correct horse battery staple"  # noqa: S105 a test's


@pytest.fixture(params=["worker", "simulated", "faulty by chance"])
def device(request: Any, worker: Any, faulty: Any, connect: Any) -> Any:
    """The same contract for the real worker and for simulated ones."""
    if request.param == "worker":
        return connect(worker.address)
    rate = 0.5 if request.param == "faulty by chance" else 0.0
    return connect(faulty(rate=rate, seed=3).address, timeouts=SHORT)


def value_or_error(call: Any, *args: Any, **options: Any) -> Any:
    """A call's value, or the one error that it may raise."""
    try:
        return call(*args, **options)
    except DeviceCallError as error:
        return error


class TestContract:
    """What `Device` promises, for whatever implements it."""

    def test_info_names_the_device(self, device: Any) -> None:
        info = value_or_error(device.info)
        assert info.address == device.address
        assert info.board
        assert info.power_mode in info.power_modes
        assert info.address in info.key
        assert info.key.startswith(info.kind)

    def test_upload_returns_the_digest(self, device: Any) -> None:
        data = golden().model
        for _ in range(2):  # the second time it is there already
            assert device.upload(data) == hashlib.sha256(data).hexdigest()

    def test_measures_or_raises_one_error(self, device: Any) -> None:
        digest = device.upload(golden().model)
        for _ in range(8):
            got = value_or_error(device.measure, digest, QUICK)
            if isinstance(got, Measurement):
                assert got.model_digest == digest
                assert got.protocol == QUICK
                assert got.latency_ms > 0
                assert len(got.samples) >= QUICK.repeat
                check_outputs(got, golden().expected)
            if isinstance(got, DeviceCallError) and got.retry is Retry.UPLOAD:
                device.upload(golden().model)

    def test_an_unknown_model_has_to_be_uploaded(self, device: Any) -> None:
        with pytest.raises(DeviceCallError) as caught:
            device.measure("0" * 64, QUICK)
        assert caught.value.retry is Retry.UPLOAD

    def test_no_call_outlives_its_deadline(self, device: Any) -> None:
        digest = device.upload(golden().model)
        start = time.monotonic()
        value_or_error(device.measure, digest, QUICK)
        assert time.monotonic() - start < 5

    def test_a_closed_connection_is_an_error(self, device: Any) -> None:
        device.close()
        with pytest.raises(DeviceCallError):
            device.info()


class TestRealWorker:
    def test_golden_outputs_are_computed_alike(self, worker: Any, connect: Any) -> None:
        client = connect(worker.address)
        check_outputs(client.measure(client.upload(golden().model), PROTOCOL), golden().expected)

    def test_progress_is_told(self, worker: Any, connect: Any) -> None:
        client = connect(worker.address)
        told: list[str] = []
        client.measure(
            client.upload(golden().model), QUICK, progress=lambda stage, *_: told.append(stage)
        )
        assert told[:2] == ["loading", "timing"]

    def test_layers_are_profiled(self, worker: Any, connect: Any) -> None:
        client = connect(worker.address)
        layers = client.profile(client.upload(golden().model), "fp32", runs=3)
        assert sum(layer.kind in ("Conv", "FusedConv") for layer in layers) == 3

    def test_is_serving(self, worker: Any, connect: Any) -> None:
        assert connect(worker.address).is_serving()

    def test_a_file_is_uploaded(self, worker: Any, connect: Any, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(golden().model)
        assert connect(worker.address).upload(path) == hashlib.sha256(golden().model).hexdigest()
        with pytest.raises(InputError, match="cannot read"):
            connect(worker.address).upload(tmp_path / "absent.onnx")

    def test_what_is_no_model_is_refused_for_good(self, worker: Any, connect: Any) -> None:
        with pytest.raises(DeviceCallError, match="not an ONNX") as caught:
            connect(worker.address).upload(b"no model")
        assert caught.value.retry is Retry.NEVER

    def test_a_precision_that_it_has_not(self, worker: Any, connect: Any) -> None:
        client = connect(worker.address)
        with pytest.raises(DeviceCallError, match="fp16") as caught:
            client.measure(client.upload(golden().model), MeasureProtocol("fp16", repeat=5))
        assert caught.value.retry is Retry.NEVER

    def test_overhead_of_a_measurement(self, worker: Any, connect: Any) -> None:
        """Beyond the inferences themselves: at most 150 ms, the best of some on a busy machine."""
        client = connect(worker.address)
        digest = client.upload(golden().model)
        protocol = MeasureProtocol(warm_up=1, repeat=20, min_time_s=0.0)
        overheads_ms = []
        for _ in range(6):
            start = time.perf_counter()
            measured = client.measure(digest, protocol)
            elapsed_ms = (time.perf_counter() - start) * 1e3
            overheads_ms.append(elapsed_ms - sum(measured.samples) - measured.latency_ms)
        assert min(overheads_ms) < 150

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
    def test_the_worker_goes_away_in_the_middle(
        self, start_worker: Any, connect: Any, number: signal.Signals
    ) -> None:
        running = start_worker("--insecure")
        client = connect(running.address, timeouts=Timeouts(info_s=2, measure_s=2))
        digest = client.upload(golden().model)
        start = time.monotonic()
        with pytest.raises(DeviceCallError) as caught:
            client.measure(
                digest, LONG, progress=lambda stage, *_: stage == "timing" and running.send(number)
            )
        assert caught.value.retry is Retry.ELSEWHERE
        assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("fault", "retry"),
    [
        ("hang", Retry.ELSEWHERE),
        ("crash", Retry.ELSEWHERE),
        ("wrong digest", Retry.ELSEWHERE),
        ("nan", Retry.ELSEWHERE),
        ("negative", Retry.ELSEWHERE),
        ("zero", Retry.ELSEWHERE),
        ("infinite", Retry.ELSEWHERE),
        ("wrong median", Retry.ELSEWHERE),
        ("few samples", Retry.ELSEWHERE),
        ("no power mode", Retry.ELSEWHERE),
        ("garbage", Retry.ELSEWHERE),
        ("unavailable", Retry.ELSEWHERE),
        ("empty", Retry.ELSEWHERE),
        ("forgets", Retry.UPLOAD),
        ("delay", None),
        ("duplicate", None),
    ],
)
class TestFaults:
    def test_one_mistake(self, faulty: Any, connect: Any, fault: str, retry: Retry | None) -> None:
        wrong = faulty(rate=1.0, faults=[fault])
        client = connect(wrong.address, timeouts=SHORT)
        digest = client.upload(golden().model)
        got = value_or_error(client.measure, digest, QUICK)
        assert getattr(got, "retry", None) is retry
        wrong.rate = 0.0
        for _ in range(4):  # a burst of UNAVAILABLE ends
            if isinstance(value_or_error(client.upload, golden().model), str):
                break
        measured = client.measure(digest, QUICK)
        assert measured.latency_ms == pytest.approx(wrong.true_latency_ms(digest))


def test_a_device_tells_its_clocks(faulty: Any, connect: Any) -> None:
    info = connect(faulty().address).info()
    assert info.clocks_mhz == CLOCKS_MHZ
    assert info.temperature == 41.0


def test_a_measurement_tells_how_the_device_was_before_and_after(faulty: Any, connect: Any) -> None:
    client = connect(faulty().address)
    got = client.measure(client.upload(golden().model), QUICK)
    assert got.before == Conditions(CLOCKS_MHZ, {"GPU-therm": 41.0})
    assert got.after.clocks_mhz["cpu1"] == 345.6
    assert got.after.temperature == 47.5


def test_idle_power_without_a_reading_is_absent(faulty: Any, connect: Any) -> None:
    device = faulty()
    client = connect(device.address)
    digest = client.upload(golden().model)
    for power, expected in (
        (None, (None, None, None)),
        (pb.Power(mean_mw=5e3, energy_mj=20.0, idle_before_mw=1e3), (20.0, 1e3, None)),
        (pb.Power(mean_mw=5e3, energy_mj=20.0, idle_after_mw=2e3), (20.0, None, 2e3)),
    ):
        device.power = power
        got = client.measure(digest, QUICK)
        assert (got.energy_mj, got.idle_before_mw, got.idle_after_mw) == expected


@pytest.mark.parametrize("idle_mw", [0.0, -1.0, math.nan])
def test_no_such_idle_power_can_have_been_measured(
    faulty: Any, connect: Any, idle_mw: float
) -> None:
    device = faulty()
    device.power = pb.Power(mean_mw=5e3, energy_mj=20.0, idle_before_mw=idle_mw)
    client = connect(device.address)
    with pytest.raises(DeviceCallError, match="positive idle power"):
        client.measure(client.upload(golden().model), QUICK)


def test_all_faults_are_tried(faulty: Any) -> None:
    tried = {case[0] for case in TestFaults.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert tried == set(faulty().faults)


class FakeError(grpc.RpcError):
    """An error of gRPC with a status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "details"


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
def test_every_status_code_is_translated(code: grpc.StatusCode) -> None:
    error = translate(FakeError(code), "board:1", "measure")
    assert "board:1" in error.message
    assert code.name in error.message
    assert error.hint
    assert isinstance(error.retry, Retry)


def test_an_error_without_a_status_is_translated() -> None:
    assert translate(grpc.RpcError("lost"), "board:1", "info").retry is Retry.ELSEWHERE


@pytest.mark.parametrize("address", ["", "host", ":5000", "host:", "host:port"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        DeviceClient(address)


def test_without_tls_on_loopback_only() -> None:
    with pytest.raises(InputError, match="loopback"):
        DeviceClient("192.0.2.7:5000")


def test_nobody_listens(connect: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = connect(f"127.0.0.1:{free.getsockname()[1]}", timeouts=SHORT)
        with pytest.raises(DeviceCallError, match="UNAVAILABLE") as caught:
            client.info()
    assert "certificate" in caught.value.hint


def test_another_release(faulty: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hw_models.client.PROTOCOL_VERSION", 2)
    with pytest.raises(DeviceCallError, match="protocol version 2, got 1") as caught:
        connect(faulty().address).info()
    assert caught.value.retry is Retry.NEVER


@pytest.fixture
def secured(start_worker: Any, tmp_path: Path) -> tuple[str, Credentials]:
    """A worker with TLS, client certificates and a token; and what reaches it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, hosts in (("worker", ["board.example"]), ("client", ["client.example"])):
        own = authority.issue_cert(*hosts)
        own.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        own.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    running = start_worker(
        f"--tls-cert={tmp_path / 'worker.pem'}",
        f"--tls-key={tmp_path / 'worker.key'}",
        f"--tls-client-ca={tmp_path / 'ca.pem'}",
        f"--token-file={tmp_path / 'token'}",
    )
    return running.address, Credentials(
        tmp_path / "ca.pem",
        tmp_path / "client.pem",
        tmp_path / "client.key",
        tmp_path / "token",
        "board.example",
    )


def test_credentials(secured: tuple[str, Credentials], connect: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    address, good = secured
    client = connect(address, good)
    assert client.is_serving()
    assert client.measure(client.upload(golden().model), QUICK).latency_ms > 0
    assert TOKEN not in repr(good)
    (tmp_path / "wrong").write_text("wrong token")
    for wrong, code, retry in (
        (replace(good, token_file=tmp_path / "wrong"), "UNAUTHENTICATED", Retry.NEVER),
        (replace(good, token_file=None), "UNAUTHENTICATED", Retry.NEVER),
        (replace(good, certificate=None, key=None), "UNAVAILABLE", Retry.ELSEWHERE),
        (replace(good, server_name=""), "UNAVAILABLE", Retry.ELSEWHERE),
        (None, "UNAVAILABLE", Retry.ELSEWHERE),
    ):
        with pytest.raises(DeviceCallError, match=code) as caught:
            connect(address, wrong).info()
        assert caught.value.retry is retry
        assert TOKEN not in str(caught.value)


def test_a_token_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token"):
        DeviceClient("127.0.0.1:1", Credentials(token_file=tmp_path / "absent"))
