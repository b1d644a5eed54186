"""Parts of the worker's suite, which runs in the project's environment and in a bare Python 3.8.

Nothing here imports paretrim. Where the distribution is not installed, its folder is put on the
path.
"""

import contextlib
import hashlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("paretrim_worker") is None:
    sys.path.insert(0, str(REPOSITORY / "hw_models" / "worker"))

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # see paretrim_worker/cli.py
import grpc  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from paretrim_worker import device_pb2 as pb  # noqa: E402

SERVICE = "/paretrim.device.v1.Device/"
TIMEOUT_S = 30.0


class Models:
    """Small ONNX models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def conv(self, size: int = 32, channels: int = 8, open_shape: bool = False) -> bytes:
        """Conv and Relu on [1, 3, size, size]; the same weights each time."""
        weights = np.random.RandomState(1).randn(channels, 3, 3, 3).astype("float32")
        dims: List[Any] = [1, 3, "h", "w"] if open_shape else [1, 3, size, size]
        return self.model(
            [
                helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
                helper.make_node("Relu", ["c"], ["y"], name="relu"),
            ],
            [numpy_helper.from_array(weights, "w")],
            dims,
        )

    def quantized(self) -> bytes:
        """A Conv whose input passes QuantizeLinear and DequantizeLinear."""
        weights = np.random.RandomState(1).randn(4, 3, 1, 1).astype("float32")
        scalars = [
            numpy_helper.from_array(np.float32(0.01), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("Conv", ["d", "w"], ["y"]),
        ]
        return self.model(nodes, [numpy_helper.from_array(weights, "w"), *scalars], [1, 3, 16, 16])

    def slow(self) -> bytes:
        """Takes some milliseconds an inference."""
        weights = np.random.RandomState(1).randn(64, 64, 3, 3).astype("float32")
        first = np.random.RandomState(2).randn(64, 3, 3, 3).astype("float32")
        nodes = [helper.make_node("Conv", ["x", "f"], ["c0"], pads=[1, 1, 1, 1])]
        for index in range(3):
            nodes.append(
                helper.make_node(
                    "Conv", ["c%d" % index, "w"], ["c%d" % (index + 1)], pads=[1, 1, 1, 1]
                )
            )
        nodes.append(helper.make_node("Identity", ["c3"], ["y"]))
        return self.model(
            nodes,
            [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(first, "f")],
            [1, 3, 96, 96],
        )

    def model(self, nodes: Sequence[Any], weights: Sequence[Any], dims: Sequence[Any]) -> bytes:
        """Any model with input x and output y."""
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            list(weights),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    def write(self, data: bytes, name: str = "model.onnx") -> Path:
        """A file of it."""
        path = self.folder / name
        path.write_bytes(data)
        return path


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


@pytest.fixture
def trtexec(tmp_path):
    """The stand-in as an executable."""
    path = tmp_path / "trtexec"
    source = (Path(__file__).parent / "trtexec_stand_in.py").read_text()
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class Wire:
    """Bytes and messages to a worker, as any client could send them."""

    def __init__(self, address: str, channel: Any = None, token: str = "") -> None:
        self.channel = channel or grpc.insecure_channel(address)
        self._metadata = (("authorization", "Bearer " + token),) if token else ()

    def info(self, timeout_s: float = TIMEOUT_S) -> Any:
        return self.unary("Info", b"", pb.InfoReply, timeout_s)

    def unary(self, method: str, data: bytes, reply: Any, timeout_s: Any = TIMEOUT_S) -> Any:
        call = self.channel.unary_unary(
            SERVICE + method, response_deserializer=reply.FromString if reply else None
        )
        return call(data, timeout=timeout_s, metadata=self._metadata)

    def upload_parts(self, parts: Sequence[bytes], timeout_s: float = TIMEOUT_S) -> Any:
        call = self.channel.stream_unary(
            SERVICE + "Upload", response_deserializer=pb.UploadReply.FromString
        )
        return call(iter(parts), timeout=timeout_s, metadata=self._metadata)

    def upload(self, data: bytes) -> bytes:
        """Upload in chunks as it should be done; return the digest."""
        digest = hashlib.sha256(data).digest()
        chunks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        self.upload_parts([start(digest, len(data)), *map(chunk, chunks)])
        return digest

    def measure_call(self, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        call = self.channel.unary_stream(
            SERVICE + "Measure", response_deserializer=pb.MeasureEvent.FromString
        )
        return call(request.SerializeToString(), timeout=timeout_s, metadata=self._metadata)

    def measure(self, digest: bytes, **changes: Any) -> Any:
        """The result of a measurement."""
        return list(self.measure_call(request_of(digest, **changes)))[-1].result

    def close(self) -> None:
        self.channel.close()


def start(digest: bytes, size_bytes: int) -> bytes:
    return pb.UploadRequest(
        start=pb.UploadStart(sha256=digest, size_bytes=size_bytes)
    ).SerializeToString()


def chunk(data: bytes) -> bytes:
    return pb.UploadRequest(chunk=data).SerializeToString()


def request_of(digest: bytes, **changes: Any) -> Any:
    fields: Dict[str, Any] = {"precision": "fp32", "warm_up": 1, "number": 1, "repeat": 5}
    return pb.MeasureRequest(model_sha256=digest, **{**fields, **changes})


def children_of(pid: int) -> List[int]:
    """The processes that a process has started."""
    children = []
    for task in Path("/proc/%d/task" % pid).iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += (task / "children").read_text().split()
    return [int(child) for child in children]


class Running:
    """A worker in a process of its own."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        package = str(Path(importlib.util.find_spec("paretrim_worker").origin).parents[1])
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paretrim_worker", "--listen", "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            env={**os.environ, "PYTHONPATH": package, "TMPDIR": str(folder)},
        )
        line = self.process.stdout.readline()
        if "listens on" not in line:
            _, errors = self.process.communicate(timeout=TIMEOUT_S)
            raise AssertionError("the worker did not start: " + line + errors)
        self.address = line.split()[-1]

    def child(self) -> int:
        """The process id of the measuring process."""
        (child,) = children_of(self.process.pid)
        return child

    def stop(self) -> str:
        """End it like systemd does; return what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=TIMEOUT_S)
        return errors


CPU = ("--runtime=onnxruntime", "--processor=cpu", "--threads=1")
INSECURE = (*CPU, "--insecure")


@pytest.fixture(scope="session")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker for all tests that leave it as it was."""
    running = Running([*INSECURE, "--queue=2"], tmp_path_factory.mktemp("worker"))
    yield running
    errors = running.stop()
    assert "Traceback" not in errors, errors


@pytest.fixture
def wire(shared_worker: Running) -> Iterator[Wire]:
    wire = Wire(shared_worker.address)
    yield wire
    wire.close()


@pytest.fixture
def start_worker(tmp_path):
    """Starts workers, stops them afterwards."""
    made = []

    def start(*arguments):
        made.append(Running([*INSECURE, *arguments], tmp_path))
        return made[-1]

    yield start
    for running in made:
        running.stop()


@pytest.fixture
def trtexec_worker(start_worker, trtexec):
    """A worker whose runtime is the stand-in of trtexec."""
    return start_worker("--runtime=trtexec", "--processor=auto", "--trtexec=" + trtexec)


@pytest.fixture
def own_worker(tmp_path: Path) -> Iterator[Running]:
    """A worker that the test may hurt."""
    running = Running([*INSECURE, "--queue=2"], tmp_path)
    yield running
    running.stop()


@pytest.fixture
def own_wire(own_worker: Running) -> Iterator[Wire]:
    wire = Wire(own_worker.address)
    yield wire
    wire.close()


assert onnx.__version__
