"""What was measured on a device, how, and the interface of whatever measures.

A `Measurement` is never a prediction: it exists only for a named device in a named power mode, a
digest-checked model and enough samples (`Measurement.__post_init__` refuses anything else). Where a
device has no power meter, its energy is None.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from hw_models.errors import DeviceError

PRECISIONS = ("fp32", "fp16", "int8")


def precision_of(model: bytes) -> str:
    """The precision that an ONNX file asks for: "int8" if it quantises activations, else "fp32".

    Args:
        model: An ONNX file.
    """
    import onnx

    nodes = onnx.load_from_string(model).graph.node
    return "int8" if any(node.op_type == "QuantizeLinear" for node in nodes) else "fp32"


@dataclass(frozen=True, slots=True)
class MeasureProtocol:
    """How a model is timed: warm up, then samples until there are enough and enough time is spent.

    Attributes:
        precision: "fp32", "fp16" or "int8" (for models with QuantizeLinear nodes, only for them).
        warm_up: Inferences before the clock starts.
        number: Inferences a sample; a sample is their mean.
        repeat: Samples, at least.
        min_time_s: Sampling goes on until this much time is spent.
        idle_s: Idle power is taken this long before and after, where there is a power meter.
    """

    precision: str = "fp32"
    warm_up: int = 10
    number: int = 1
    repeat: int = 50
    min_time_s: float = 0.5
    idle_s: float = 0.5

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if self.number < 1 or self.repeat < 1 or self.warm_up < 0:
            raise ValueError(
                "protocol: expected number >= 1, repeat >= 1 and warm_up >= 0, got "
                f"{self.number}, {self.repeat} and {self.warm_up}"
            )

    @property
    def digest(self) -> str:
        """A name for this protocol that stays the same between runs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Output:
    """What a model computed for the seeded input: enough to see that a device computes rightly."""

    name: str
    dims: tuple[int, ...]
    mean: float
    rms: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a device is at one moment; what it does not tell is left out.

    Attributes:
        clocks_mhz: By the name of the clock: "cpu0", the GPU's "17000000.gp10b".
        temperatures_c: By the name of the sensor, degrees Celsius.

    Raises:
        ValueError: If one of them is no finite number.
    """

    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (*self.clocks_mhz.items(), *self.temperatures_c.items()):
            if not math.isfinite(value):
                raise ValueError(f"{name}: expected a finite clock or temperature, got {value}")

    @property
    def temperature(self) -> float | None:
        """The highest, degrees Celsius; None if the device tells none."""
        return max(self.temperatures_c.values(), default=None)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Times of one model on one device.

    Attributes:
        latency_ms: Median of the samples.
        samples: [S] mean time of one inference in each sample, milliseconds, in order.
        energy_mj: One inference, from the mean power while it was timed; None without a meter.
        device: Which device, by its key (`DeviceInfo.key`).
        power_mode: Of the device while it measured.
        protocol: How it was measured.
        model_digest: SHA-256 of the ONNX file, hexadecimal.
        throttled: Whether the device was slowed down by heat or current; None if it does not tell.
        outputs: What the model computed.
        idle_before_mw: Mean power of the device before it began; None without a reading of it.
        idle_after_mw: The same after the last inference.
        before: Clocks and temperatures when it began.
        after: The same after the last inference.

    Raises:
        ValueError: If anything is missing or no such number can have been measured.
    """

    latency_ms: float
    samples: tuple[float, ...] = field(repr=False)
    energy_mj: float | None
    device: str
    power_mode: str
    protocol: MeasureProtocol
    model_digest: str
    throttled: bool | None = None
    outputs: tuple[Output, ...] = ()
    idle_before_mw: float | None = None
    idle_after_mw: float | None = None
    before: Conditions = Conditions()
    after: Conditions = Conditions()

    def __post_init__(self) -> None:
        if len(self.samples) < self.protocol.repeat:
            raise ValueError(
                f"expected at least {self.protocol.repeat} samples, got {len(self.samples)}"
            )
        wrong = [sample for sample in self.samples if not (math.isfinite(sample) and sample > 0)]
        if wrong:
            raise ValueError(f"expected positive finite times, got {wrong[0]} ms")
        if not math.isclose(self.latency_ms, statistics.median(self.samples), rel_tol=1e-6):
            raise ValueError(
                f"expected the samples' median {statistics.median(self.samples)} ms, "
                f"got {self.latency_ms} ms"
            )
        if not _positive_or_absent(self.energy_mj):
            raise ValueError(f"expected a positive energy, got {self.energy_mj} mJ")
        for idle_mw in (self.idle_before_mw, self.idle_after_mw):
            if not _positive_or_absent(idle_mw):
                raise ValueError(f"expected a positive idle power, got {idle_mw} mW")
        if not self.device or not self.power_mode:
            raise ValueError(
                "expected the names of the device and of its power mode, got "
                f"{self.device!r} and {self.power_mode!r}"
            )

    @property
    def spread_ms(self) -> float:
        """Median absolute deviation of the samples."""
        return statistics.median(abs(sample - self.latency_ms) for sample in self.samples)

    def quantile_ms(self, fraction: float) -> float:
        """Linear quantile of the samples."""
        ordered = sorted(self.samples)
        position = fraction * (len(ordered) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _positive_or_absent(value: float | None) -> bool:
    return value is None or (math.isfinite(value) and value > 0)


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of one layer as the device's runtime tells it; runtimes fuse layers."""

    name: str
    kind: str
    mean_ms: float


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a device is and how it is now.

    Attributes:
        address: Where its worker listens.
        board: The board's or processor's name.
        device_id: Stable for this device, unique among devices.
        power_mode: Now.
        power_modes: All it has.
        runtime: "onnxruntime", "openvino" or "trtexec".
        runtime_version: Of the runtime.
        processor: "cpu", "cuda" or "tensorrt".
        precisions: That the runtime executes.
        threads: Of a CPU runtime.
        model_bytes: Largest model it takes.
        power_source: Its power meter; empty without one.
        temperature: Its highest temperature, degrees Celsius; None if unknown.
        throttled: None if it does not tell.
        busy: Whether something is measured now.
        queued: Calls that wait.
        worker_version: Of the worker.
        versions: Of Python, kernel, JetPack.
        clocks_mhz: Of its processors now, by the name of the clock; empty if it does not tell.
    """

    address: str
    board: str
    device_id: str
    power_mode: str
    power_modes: tuple[str, ...]
    runtime: str
    runtime_version: str
    processor: str
    precisions: tuple[str, ...]
    threads: int
    model_bytes: int
    power_source: str
    temperature: float | None
    throttled: bool | None
    busy: bool
    queued: int
    worker_version: str
    versions: Mapping[str, str] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Devices of the same kind measure the same: board, runtime, processor, mode, threads."""
        threads = f" {self.threads} threads" if self.processor == "cpu" else ""
        return (
            f"{self.board} | {self.runtime} {self.runtime_version} {self.processor}{threads} | "
            f"{self.power_mode}"
        )

    @property
    def key(self) -> str:
        """This one device, this worker."""
        return f"{self.kind} | {self.device_id}@{self.address}"


class Retry(enum.Enum):
    """What to do after a call that failed."""

    NEVER = "never"  # the model, the request or the credentials are wrong
    HERE = "here"  # the same call later: the queue is full
    UPLOAD = "upload"  # send the model again, then the same call
    ELSEWHERE = "elsewhere"  # this device has trouble


class DeviceCallError(DeviceError):
    """A call to a device failed.

    Args:
        message: Which device, what was asked, what it said.
        hint: What to do next.
        retry: Whether and where to try again.
    """

    def __init__(self, message: str, hint: str = "", retry: Retry = Retry.ELSEWHERE) -> None:
        super().__init__(message, hint)
        self.retry = retry  # restored from __dict__ after pickling


Progress = Callable[[str, int, int], None]
"""Told (stage, done, total) while a measurement runs."""


class Device(Protocol):
    """Measures models. One conformance suite runs on all implementations.

    Every method may raise DeviceCallError and nothing else for whatever the device does; none waits
    without a deadline.
    """

    address: str

    def info(self) -> DeviceInfo:
        """Say what the device is."""
        ...

    def is_serving(self) -> bool:
        """Whether the device's worker answers and says it is well."""
        ...

    def upload(self, model: bytes | Path) -> str:
        """Store an ONNX file on the device; return its SHA-256, hexadecimal."""
        ...

    def measure(
        self,
        model_digest: str,
        protocol: MeasureProtocol,
        shapes: Mapping[str, Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Measurement:
        """Time a stored model; `progress` is told how far it is."""
        ...

    def close(self) -> None:
        """Give back what the connection holds."""
        ...
