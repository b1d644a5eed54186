"""Two workers on two hosts (network namespaces) with TLS, and one of them is cut off."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from onnx import TensorProto, helper

from hw_models.client import Credentials, Timeouts
from hw_models.measurement import MeasureProtocol
from hw_models.member import Health, Rules
from hw_models.pool import DevicePool

NET = "10.78.0"
BRIDGE = "paretrim-br"
PORT = 50051
PROTOCOL = MeasureProtocol(warm_up=1, repeat=5, min_time_s=0.3, idle_s=0.0)


class Hosts:
    """Hosts 1 and 2, joined by a bridge that this host is on too."""

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S603, S607

    def make(self) -> None:
        self.ip("link", "add", BRIDGE, "type", "bridge")
        self.ip("addr", "add", f"{NET}.254/24", "dev", BRIDGE)
        self.ip("link", "set", BRIDGE, "up")
        for host in (1, 2):
            space = ["-n", f"paretrim{host}"]
            self.ip("netns", "add", f"paretrim{host}")
            peer = ["peer", "name", "eth0", "netns", f"paretrim{host}"]
            self.ip("link", "add", f"paretrim-v{host}", "type", "veth", *peer)
            self.ip("link", "set", f"paretrim-v{host}", "master", BRIDGE, "up")
            self.ip(*space, "addr", "add", f"{NET}.{host}/24", "dev", "eth0")
            self.ip(*space, "link", "set", "eth0", "up")
            self.ip(*space, "link", "set", "lo", "up")

    def cut(self, host: int) -> None:
        self.ip("link", "set", f"paretrim-v{host}", "down")

    def remove(self) -> None:
        for words in (["netns", "del", "paretrim1"], ["netns", "del", "paretrim2"]):
            subprocess.run(["ip", *words], check=False, capture_output=True)  # noqa: S603, S607
        command = ["ip", "link", "del", BRIDGE]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    made = Hosts()
    made.remove()
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield made
    made.remove()


def secure(folder: Path) -> tuple[list[str], Credentials]:
    """The workers' options and what reaches them."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, subjects in (("worker", [f"{NET}.1", f"{NET}.2"]), ("client", ["client.example"])):
        own = authority.issue_cert(*subjects)
        own.private_key_pem.write_to_path(folder / f"{name}.key")
        own.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    (folder / "token").write_text("correct horse battery staple")
    (folder / "token").chmod(0o600)
    options = [
        f"--tls-cert={folder / 'worker.pem'}",
        f"--tls-key={folder / 'worker.key'}",
        f"--tls-client-ca={folder / 'ca.pem'}",
        f"--token-file={folder / 'token'}",
    ]
    ours = [folder / name for name in ("ca.pem", "client.pem", "client.key", "token")]
    return options, Credentials(*ours)


def model(channels: int) -> bytes:
    """A different small model for each number."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 64, 64])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    data: bytes = made.SerializeToString()
    return data


@pytest.mark.slow
def test_the_pool_uses_both_and_survives_one(
    hosts: Hosts, start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    options, credentials = secure(tmp_path)
    timeouts = Timeouts(info_s=2, upload_s=5, measure_s=4)
    addresses = [f"{NET}.{host}:{PORT}" for host in (1, 2)]
    for host, address in zip((1, 2), addresses, strict=True):
        start_worker(*options, listen=address, prefix=("ip", "netns", "exec", f"paretrim{host}"))
    clients = [connect(address, credentials, timeouts) for address in addresses]
    # Both hosts share these cores, so the golden model's time says nothing here.
    pool = DevicePool(clients, Rules(drift=100.0, noise=10.0, poll_s=0.1))
    (kind,) = pool.kinds
    done = threading.Semaphore(0)
    spans: dict[str, list[tuple[float, float]]] = {address: [] for address in addresses}

    def measure(channels: int) -> str:
        start_s = time.monotonic()
        data = model(channels)
        measured = pool.measure(data, PROTOCOL, kind)
        assert measured.model_digest == hashlib.sha256(data).hexdigest()
        address = measured.device.rpartition("@")[2]
        spans[address].append((start_s, time.monotonic()))
        done.release()
        return address

    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(measure, channels) for channels in range(1, 13)]
        for _ in range(4):
            assert done.acquire(timeout=30)
        hosts.cut(2)
        used = [result.result(timeout=60) for result in results]
    first, second = (spans[address] for address in addresses)
    assert any(a < d and c < b for a, b in first for c, d in second), "never both at once"
    assert used[-4:] == [addresses[0]] * 4
    assert [status.health for status in pool.status()] == [Health.GOOD, Health.QUARANTINED]
