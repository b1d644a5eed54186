"""What measuring over gRPC costs: overhead of a measurement, speed of an upload, what is held.

    python -m benchmarks.device_worker [MODEL.onnx ...] [--measurements N]

A worker (ONNX Runtime, one thread) runs on loopback, once without TLS and once with TLS, client
certificates and a token. Overhead is what a measurement takes beyond its inferences (warm-up
included); the first one of a model includes loading it. Without a model the golden one is used.

Then N measurements are made through a pool, TLS and all, and every tenth time a call that fails:
descriptors, threads and files of all processes are counted before, half-way and after.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trustme
from rich.console import Console
from rich.table import Table

from hw_models.client import Credentials, DeviceClient
from hw_models.golden import golden
from hw_models.measurement import DeviceCallError, MeasureProtocol, precision_of
from hw_models.member import Rules
from hw_models.pool import DevicePool

WORKER = Path(__file__).resolve().parents[1] / "hw_models" / "worker"
PROTOCOL = MeasureProtocol(warm_up=1, repeat=20, min_time_s=0.0, idle_s=0.0)
ROUNDS = 11
UPLOAD_BYTES = 200 * 1024 * 1024
MB = 1e6
FAILING = 10
"""Each so manieth measurement is followed by one that is refused."""


@dataclass(frozen=True, slots=True)
class Running:
    """A worker in a process of its own: where it listens, its id, its temporary folder."""

    address: str
    pid: int
    folder: Path


@contextmanager
def running(arguments: Sequence[str], runtime: str = "onnxruntime") -> Iterator[Running]:
    """Run a worker on this machine's CPU, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(  # noqa: S603
            [
                *(sys.executable, "-m", "paretrim_worker", "--listen", "127.0.0.1:0"),
                *("--runtime", runtime, "--processor", "cpu", "--threads", "1"),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(WORKER), "TMPDIR": folder},
        )
        assert process.stdout is not None
        try:
            yield Running(process.stdout.readline().split()[-1], process.pid, Path(folder))
        finally:
            process.terminate()
            process.wait()


def secured(folder: Path) -> tuple[list[str], Credentials]:
    """Keys; the worker's options and ours."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("worker", "client"):
        own = authority.issue_cert("127.0.0.1")
        own.private_key_pem.write_to_path(folder / f"{name}.key")
        own.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    (folder / "token").write_text(os.urandom(32).hex())
    (folder / "token").chmod(0o600)
    options = ["--tls-cert", "worker.pem", "--tls-key", "worker.key", "--tls-client-ca", "ca.pem"]
    paths = [word if word.startswith("--") else str(folder / word) for word in options]
    ours = [folder / name for name in ("ca.pem", "client.pem", "client.key", "token")]
    return [*paths, "--token-file", str(folder / "token")], Credentials(*ours)


def overheads_ms(client: DeviceClient, model: bytes) -> list[float]:
    """Overhead of each of some measurements of one model, in order."""
    client.info()
    digest = client.upload(model)
    protocol = replace(PROTOCOL, precision=precision_of(model))
    overheads = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        measured = client.measure(digest, protocol)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        inferences_ms = sum(measured.samples) + PROTOCOL.warm_up * measured.latency_ms
        overheads.append(elapsed_ms - inferences_ms)
    return overheads


def upload_mb_s(client: DeviceClient) -> float:
    """Speed of sending random bytes, which are refused once they are all there."""
    data = os.urandom(UPLOAD_BYTES)
    hashlib.sha256(data)  # the pages are there
    start = time.perf_counter()
    try:
        client.upload(data)
    except DeviceCallError:
        return UPLOAD_BYTES / MB / (time.perf_counter() - start)
    raise AssertionError("random bytes were taken for a model")


def held(worker: Running) -> list[int]:
    """Count what is held: descriptors and threads of the three processes, the worker's files."""
    tasks = Path(f"/proc/{worker.pid}/task").iterdir()
    (child,) = {pid for task in tasks for pid in (task / "children").read_text().split()}
    folders = [Path("/proc") / str(pid) for pid in (os.getpid(), worker.pid, child)]
    counts = [len(list((of / what).iterdir())) for what in ("fd", "task") for of in folders]
    return [*counts, sum(1 for _ in worker.folder.rglob("*"))]


def leaks(worker: Running, credentials: Credentials, model: bytes, measurements: int) -> Table:
    """Return what is held while many measurements are made, some of which fail."""
    header = ("descriptors: client", "worker", "measuring", "threads: client", "worker",
              "measuring", "files")  # fmt: skip
    table = Table("measurements", *header)
    # Whether the machine is steady is not the question here.
    pool = DevicePool([DeviceClient(worker.address, credentials)], Rules(drift=100.0, noise=100.0))
    protocol = replace(PROTOCOL, precision=precision_of(model))
    try:
        for number in range(1, measurements + 1):
            pool.measure(model, protocol)
            if number % FAILING == 0:
                with suppress(DeviceCallError):
                    pool.measure(b"no model", protocol)
            if number in (measurements // FAILING, measurements // 2, measurements):
                table.add_row(str(number), *map(str, held(worker)))
    finally:
        pool.close()
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--measurements", type=int, default=500)
    given = parser.parse_args()
    models = {path.name: path.read_bytes() for path in given.models} or {"golden": golden().model}
    table = Table("connection", "model", "first, ms", "then (median), ms", "upload, MB/s")
    with tempfile.TemporaryDirectory() as folder:
        options, credentials = secured(Path(folder))
        for name, flags, keys in (
            ("plain", ["--insecure"], None),
            ("TLS, certificates, token", options, credentials),
        ):
            with running(flags) as worker, DeviceClient(worker.address, keys) as client:
                speed = statistics.median(upload_mb_s(client) for _ in range(3))
                for model, data in models.items():
                    first, *rest = overheads_ms(client, data)
                    row = (f"{first:.0f}", f"{statistics.median(rest):.0f}", f"{speed:.0f}")
                    table.add_row(name, model, *row)
        Console().print(table)
        with running(options) as worker:
            model = next(iter(models.values()))
            Console().print(leaks(worker, credentials, model, given.measurements))


if __name__ == "__main__":
    main()
