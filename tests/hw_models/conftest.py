"""Devices for tests: a real worker in a process of its own, and one that makes mistakes."""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from hw_models import device_pb2 as pb
from hw_models.client import SERVICE, DeviceClient
from hw_models.golden import golden

WORKER_FOLDER = Path(__file__).resolve().parents[2] / "hw_models" / "worker"
START_TIMEOUT_S = 60.0
CPU = ("--runtime=onnxruntime", "--processor=cpu", "--threads=1")


class WorkerProcess:
    """A real worker on loopback."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (*CPU, "--insecure"),
        listen: str = "127.0.0.1:0",
        prefix: Sequence[str] = (),
    ) -> None:
        command = [sys.executable, "-m", "paretrim_worker", "--listen", listen, *arguments]
        self.process = subprocess.Popen(  # noqa: S603
            [*prefix, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(WORKER_FOLDER), "TMPDIR": str(folder)},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        self.process.communicate(timeout=START_TIMEOUT_S)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Any]:
    """Starts workers, stops them afterwards."""
    made: list[WorkerProcess] = []

    def start(*arguments: str, **options: Any) -> WorkerProcess:
        made.append(WorkerProcess(tmp_path, (*CPU, *arguments), **options))
        return made[-1]

    yield start
    for running in made:
        running.stop()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that tests leave as it was."""
    running = WorkerProcess(tmp_path_factory.mktemp("worker"))
    yield running
    running.stop()


FAULTS = (
    "delay",
    "hang",
    "crash",
    "wrong digest",
    "nan",
    "negative",
    "zero",
    "infinite",
    "wrong median",
    "few samples",
    "no power mode",
    "duplicate",
    "garbage",
    "unavailable",
    "empty",
    "forgets",
)


CLOCKS_MHZ = {"cpu0": 1881.6, "cpu1": 2035.2, "17000000.gp10b": 1300.5}


class FaultyDevice:
    """A gRPC server that speaks the worker's protocol and makes mistakes by a seed.

    Args:
        rate: Probability of a mistake in a measurement.
        seed: Of the mistakes.
        faults: Which ones.
    """

    def __init__(self, rate: float = 0.0, seed: int = 0, faults: Sequence[str] = FAULTS) -> None:
        self.rate = rate
        self.faults = tuple(faults)
        self.power_mode = "MAXN"
        self.power: pb.Power | None = None
        self._random = random.Random(seed)  # noqa: S311 mistakes, not secrets
        self._unavailable = 0  # calls of a burst that are left
        self._stored: set[str] = set()
        self._stopping = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        servicer = health.HealthServicer()
        servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @staticmethod
    def true_latency_ms(model_digest: str) -> float:
        """What a model takes on every simulated device: 1 to 11 ms, from its digest."""
        return 1 + int(model_digest[:4], 16) % 1000 / 100

    def stop(self) -> None:
        """End the server and what it holds up."""
        self._stopping.set()
        self._server.stop(0).wait()

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Info": grpc.unary_unary_rpc_method_handler(self._info),
                "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
                "Measure": grpc.unary_stream_rpc_method_handler(self._measure),
            },
        )

    def _info(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        self._maybe_unavailable(context)
        return pb.InfoReply(
            protocol_version=1,
            worker_version="simulated",
            board="Simulated board",
            device_id=self.address,
            power_mode=self.power_mode,
            power_modes=["MAXN", "MAXQ"],
            runtime=pb.Runtime(name="trtexec", version="1", processor="tensorrt"),
            conditions=pb.Conditions(clocks_mhz=CLOCKS_MHZ, temperatures_c={"GPU-therm": 41.0}),
        ).SerializeToString()

    def _upload(self, parts: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._maybe_unavailable(context)
        start = pb.UploadRequest.FromString(next(parts)).start
        data = b"".join(pb.UploadRequest.FromString(part).chunk for part in parts)
        assert hashlib.sha256(data).digest() == start.sha256
        self._stored.add(start.sha256.hex())
        return pb.UploadReply(sha256=start.sha256, size_bytes=start.size_bytes).SerializeToString()

    def _measure(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._maybe_unavailable(context)
        request = pb.MeasureRequest.FromString(data)
        digest = request.model_sha256.hex()
        if digest not in self._stored:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        fault = self._random.choice(self.faults) if self._random.random() < self.rate else ""
        progress = pb.Progress(stage=pb.Progress.STAGE_TIMING, done=0, total=request.repeat)
        yield pb.MeasureEvent(progress=progress).SerializeToString()
        self._before(fault, digest, context)
        if fault == "empty":
            return
        if fault == "garbage":
            yield b"\xff" + self._random.randbytes(50)
            return
        event = pb.MeasureEvent(result=self._result(request, fault)).SerializeToString()
        yield event
        if fault == "duplicate":
            yield event

    def _before(self, fault: str, digest: str, context: grpc.ServicerContext) -> None:
        if fault == "delay":
            self._stopping.wait(0.05)
        elif fault == "hang":
            while context.is_active() and not self._stopping.wait(0.02):
                pass
        elif fault == "crash":
            context.abort(grpc.StatusCode.ABORTED, "the measuring process ended (-11)")
        elif fault == "unavailable":
            self._unavailable = 3
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        elif fault == "forgets":
            self._stored.discard(digest)
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    def _result(self, request: pb.MeasureRequest, fault: str) -> pb.MeasureResult:
        digest = request.model_sha256.hex()
        latency_ms = self.true_latency_ms(digest)
        # Up to 1 % of noise, symmetric, so that the median stays exact.
        noise = [
            (index - (request.repeat - 1) / 2) / request.repeat for index in range(request.repeat)
        ]
        samples = [latency_ms * (1 + 0.02 * step) for step in noise]
        wrong = {"nan": math.nan, "negative": -1.0, "zero": 0.0, "infinite": math.inf}
        if fault in wrong:
            samples[0] = wrong[fault]
        if fault == "few samples":
            samples = samples[:-1]
        expected = golden().expected
        return pb.MeasureResult(
            model_sha256=b"\x00" * 32 if fault == "wrong digest" else request.model_sha256,
            samples_ms=samples,
            median_ms=statistics.median(samples) * (2 if fault == "wrong median" else 1),
            power_mode="" if fault == "no power mode" else self.power_mode,
            power=self.power,
            before=pb.Conditions(clocks_mhz=CLOCKS_MHZ, temperatures_c={"GPU-therm": 41.0}),
            after=pb.Conditions(
                clocks_mhz={**CLOCKS_MHZ, "cpu1": 345.6},
                temperatures_c={"GPU-therm": 47.5, "CPU-therm": 44.0},
            ),
            outputs=[
                pb.Output(
                    name=expected.name,
                    dims=expected.dims,
                    mean=expected.mean,
                    rms=expected.rms,
                    finite=True,
                )
            ],
        )

    def _maybe_unavailable(self, context: grpc.ServicerContext) -> None:
        if self._unavailable:
            self._unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


@pytest.fixture
def faulty() -> Iterator[Any]:
    """Makes faulty devices, stops them afterwards."""
    made: list[FaultyDevice] = []

    def make(*args: Any, **options: Any) -> FaultyDevice:
        made.append(FaultyDevice(*args, **options))
        return made[-1]

    yield make
    for device in made:
        device.stop()


@pytest.fixture
def connect() -> Iterator[Any]:
    """Makes clients, closes them afterwards."""
    made: list[DeviceClient] = []

    def make(address: str, *args: Any, **options: Any) -> DeviceClient:
        made.append(DeviceClient(address, *args, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()
