"""The client of a device worker: typed values in and out, a deadline on every call.

Whatever gRPC raises is translated in `translate`, the one place that knows status codes; what a
worker answers is believed only after `_measurement` has checked it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from hw_models import device_pb2 as pb
from hw_models.errors import InputError
from hw_models.measurement import (
    Conditions,
    DeviceCallError,
    DeviceInfo,
    LayerTime,
    Measurement,
    MeasureProtocol,
    Output,
    Progress,
    Retry,
)

PROTOCOL_VERSION = 1
SERVICE = "paretrim.device.v1.Device"
CHUNK_BYTES = 1024 * 1024
MESSAGE_BYTES = 4 * 1024 * 1024
MAX_SAMPLES = 20_000

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of the calls, in seconds."""

    info_s: float = 10.0
    upload_s: float = 120.0
    measure_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach a worker that is protected.

    Attributes:
        ca: The certificate authority of the worker's certificate; None: no TLS.
        certificate: Our own certificate, where the worker wants one.
        key: Its key.
        token_file: Holds the bearer token.
        server_name: The name in the worker's certificate, where it is not the host's.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    server_name: str = ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The header with the token.

        Raises:
            InputError: If the token file cannot be read.
        """
        if self.token_file is None:
            return ()
        return (("authorization", f"Bearer {_read(self.token_file, 'token').decode().strip()}"),)

    def channel(self) -> grpc.ChannelCredentials:
        """TLS as chosen.

        Raises:
            InputError: If a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            _read(self.ca, "certificate authority") if self.ca else None,
            _read(self.key, "key") if self.key else None,
            _read(self.certificate, "certificate") if self.certificate else None,
        )


class DeviceClient:
    """A connection to one worker; see `Device` for the contract of its methods.

    Args:
        address: HOST:PORT.
        credentials: None: no TLS and no token, which is for loopback only.
        timeouts: Deadlines.

    Raises:
        InputError: If the address or the credentials are no good.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials | None = None,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.address = address
        self._timeouts = timeouts
        self._metadata = credentials.metadata() if credentials else ()
        self._channel = _open_channel(address, credentials or Credentials())
        self._key: str | None = None

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """See Device."""
        self._channel.close()

    def info(self) -> DeviceInfo:
        """See Device."""
        reply = self._unary("Info", pb.InfoRequest(), pb.InfoReply, self._timeouts.info_s)
        if reply.protocol_version != PROTOCOL_VERSION:
            raise DeviceCallError(
                f"{self.address}: expected protocol version {PROTOCOL_VERSION}, got "
                f"{reply.protocol_version} (worker {reply.worker_version}).",
                "Install the worker and paretrim of the same release.",
                Retry.NEVER,
            )
        try:
            info = _device_info(self.address, reply)
        except ValueError as error:
            raise DeviceCallError(f"{self.address}: it is not believed: {error}.") from None
        self._key = info.key
        return info

    def is_serving(self) -> bool:
        """See Device."""
        call = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        with self._translated("health"):
            reply = call(
                health_pb2.HealthCheckRequest(service=SERVICE),
                timeout=self._timeouts.info_s,
                metadata=self._metadata,
            )
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def upload(self, model: bytes | Path) -> str:
        """See Device.

        Raises:
            InputError: If the file cannot be read.
            DeviceCallError: If the worker refuses it.
        """
        data = _read(model, "model") if isinstance(model, Path) else model
        digest = hashlib.sha256(data).digest()
        call = self._channel.stream_unary(
            f"/{SERVICE}/Upload",
            request_serializer=_serialize,
            response_deserializer=pb.UploadReply.FromString,
        )
        with self._translated("upload"):
            reply = call(
                _upload_parts(data, digest),
                timeout=self._timeouts.upload_s,
                metadata=self._metadata,
            )
        if reply.sha256 != digest:
            raise DeviceCallError(f"{self.address}: it stored {reply.sha256.hex()!r} instead.")
        return digest.hex()

    def measure(
        self,
        model_digest: str,
        protocol: MeasureProtocol,
        shapes: Mapping[str, Sequence[int]] | None = None,
        progress: Progress | None = None,
    ) -> Measurement:
        """See Device."""
        request = pb.MeasureRequest(
            model_sha256=bytes.fromhex(model_digest),
            precision=protocol.precision,
            input_shapes=_shape_messages(shapes),
            warm_up=protocol.warm_up,
            number=protocol.number,
            repeat=protocol.repeat,
            min_time_s=protocol.min_time_s,
            idle_s=protocol.idle_s,
        )
        key = self._key or self.info().key
        result = self._last_event(request, progress)
        if result is None:
            raise DeviceCallError(f"{self.address}: the measurement ended without a result.")
        return self._measurement(result, model_digest, protocol, key)

    def profile(
        self,
        model_digest: str,
        precision: str,
        runs: int = 10,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> tuple[LayerTime, ...]:
        """Time the layers of a stored model.

        Raises:
            DeviceCallError: If the worker cannot.
        """
        request = pb.ProfileRequest(
            model_sha256=bytes.fromhex(model_digest),
            precision=precision,
            input_shapes=_shape_messages(shapes),
            runs=runs,
        )
        reply = self._unary("Profile", request, pb.ProfileReply, self._timeouts.measure_s)
        return tuple(LayerTime(layer.name, layer.kind, layer.mean_ms) for layer in reply.layers)

    def _unary(self, name: str, request: Message, reply: type[M], timeout_s: float) -> M:
        call = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=_serialize,
            response_deserializer=reply.FromString,
        )
        with self._translated(name.lower()):
            answer: M = call(request, timeout=timeout_s, metadata=self._metadata)
            return answer

    def _last_event(
        self, request: pb.MeasureRequest, progress: Progress | None
    ) -> pb.MeasureResult | None:
        call = self._channel.unary_stream(
            f"/{SERVICE}/Measure",
            request_serializer=_serialize,
            response_deserializer=pb.MeasureEvent.FromString,
        )
        result: pb.MeasureResult | None = None
        with self._translated("measure"):
            events = call(request, timeout=self._timeouts.measure_s, metadata=self._metadata)
            try:
                for event in events:
                    if event.WhichOneof("event") == "result":
                        result = event.result
                    elif progress is not None:
                        stage = pb.Progress.Stage.Name(event.progress.stage)
                        name = stage.removeprefix("STAGE_").lower()
                        progress(name, event.progress.done, event.progress.total)
            finally:
                events.cancel()  # however this ends, the worker stops
        return result

    def _measurement(
        self, result: pb.MeasureResult, model_digest: str, protocol: MeasureProtocol, key: str
    ) -> Measurement:
        """Believe a result only if all of it is plausible."""
        if result.model_sha256.hex() != model_digest:
            raise DeviceCallError(
                f"{self.address}: it measured model {result.model_sha256.hex()!r}, "
                f"expected {model_digest!r}."
            )
        try:
            return Measurement(
                latency_ms=result.median_ms,
                samples=tuple(result.samples_ms[: MAX_SAMPLES + 1]),
                energy_mj=result.power.energy_mj if result.HasField("power") else None,
                device=key,
                power_mode=result.power_mode,
                protocol=protocol,
                model_digest=model_digest,
                throttled=_given(result.after, "throttled"),
                outputs=tuple(_output(output) for output in result.outputs),
                idle_before_mw=_given(result.power, "idle_before_mw"),
                idle_after_mw=_given(result.power, "idle_after_mw"),
                before=_conditions(result.before),
                after=_conditions(result.after),
            )
        except ValueError as error:
            raise DeviceCallError(f"{self.address}: its result is not believed: {error}.") from None

    @contextmanager
    def _translated(self, asked: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise translate(error, self.address, asked) from None
        except ValueError as error:  # grpc's way to say that the channel is closed
            raise DeviceCallError(f"{self.address}: {asked}: {error}.") from None


# What each status code means here (device.proto says when the worker sends it; the others come
# from gRPC itself or from something else that listens there).
_CERTIFICATES = (
    "Is a worker running there? A certificate that is missing, wrong or made for another name "
    "looks the same: check the TLS files and the name in the worker's certificate."
)
_OTHER_SERVICE = "Something else listens there, or a worker of another release."
_MEANINGS: Mapping[grpc.StatusCode, tuple[Retry, str]] = {
    grpc.StatusCode.CANCELLED: (Retry.ELSEWHERE, "The call was cancelled."),
    grpc.StatusCode.UNKNOWN: (Retry.ELSEWHERE, "Look at the worker's log."),
    grpc.StatusCode.INVALID_ARGUMENT: (Retry.NEVER, "The model or the request has to change."),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Retry.ELSEWHERE, "The device is stuck or too slow."),
    grpc.StatusCode.NOT_FOUND: (Retry.UPLOAD, "The worker has forgotten the model."),
    grpc.StatusCode.ALREADY_EXISTS: (Retry.NEVER, _OTHER_SERVICE),
    grpc.StatusCode.PERMISSION_DENIED: (Retry.NEVER, "The worker does not allow this."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Retry.HERE, "Others use the device: wait."),
    grpc.StatusCode.FAILED_PRECONDITION: (Retry.NEVER, "The device's runtime cannot run it."),
    grpc.StatusCode.ABORTED: (Retry.ELSEWHERE, "The measuring process died; see the worker's log."),
    grpc.StatusCode.OUT_OF_RANGE: (Retry.NEVER, _OTHER_SERVICE),
    grpc.StatusCode.UNIMPLEMENTED: (Retry.NEVER, _OTHER_SERVICE),
    grpc.StatusCode.INTERNAL: (Retry.ELSEWHERE, "Look at the worker's log."),
    grpc.StatusCode.UNAVAILABLE: (Retry.ELSEWHERE, _CERTIFICATES),
    grpc.StatusCode.DATA_LOSS: (Retry.UPLOAD, "The model was damaged on its way."),
    grpc.StatusCode.UNAUTHENTICATED: (Retry.NEVER, "Check the token file."),
}


def translate(error: grpc.RpcError, address: str, asked: str) -> DeviceCallError:
    """Turn what gRPC raised into our error.

    Args:
        error: From a call.
        address: Of the worker.
        asked: What was asked of it.
    """
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else str(error)) or "no details"
    retry, hint = _MEANINGS[code]
    return DeviceCallError(f"{address}: {asked} failed ({code.name}): {details}.", hint, retry)


def is_loopback(host: str) -> bool:
    """Whether every address that a host name stands for is loopback."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    addresses = {str(entry[4][0]).split("%")[0] for entry in found}
    return bool(addresses) and all(ipaddress.ip_address(text).is_loopback for text in addresses)


def _open_channel(address: str, credentials: Credentials) -> grpc.Channel:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"device address: expected HOST:PORT, got {address!r}.")
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.enable_retries", 0),  # the pool decides where to try again
        ("grpc.keepalive_time_ms", 30_000),  # a cut cable is noticed during a long measurement
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),  # an engine is built for minutes without a word
        ("grpc.use_local_subchannel_pool", 1),  # a worker that was away is tried afresh
    ]
    if credentials.server_name:
        options.append(("grpc.ssl_target_name_override", credentials.server_name))
    if credentials.ca is not None:
        return grpc.secure_channel(address, credentials.channel(), options)
    if not is_loopback(host.strip("[]")):
        raise InputError(
            f"{address}: without TLS a worker is reached on loopback only.",
            "Give the certificate authority of its certificate.",
        )
    return grpc.insecure_channel(address, options)


def _upload_parts(data: bytes, digest: bytes) -> Iterator[pb.UploadRequest]:
    yield pb.UploadRequest(start=pb.UploadStart(sha256=digest, size_bytes=len(data)))
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.UploadRequest(chunk=data[start : start + CHUNK_BYTES])


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what}: cannot read {path}: {error.strerror}.") from None


def _shape_messages(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, pb.Shape]:
    return {name: pb.Shape(dims=dims) for name, dims in (shapes or {}).items()}


def _given(message: Message, name: str) -> Any:
    """Return an optional field; None where the worker left it out."""
    return getattr(message, name) if message.HasField(name) else None


def _conditions(conditions: pb.Conditions) -> Conditions:
    return Conditions(dict(conditions.clocks_mhz), dict(conditions.temperatures_c))


def _output(output: pb.Output) -> Output:
    return Output(output.name, tuple(output.dims), output.mean, output.rms, output.finite)


def _device_info(address: str, reply: pb.InfoReply) -> DeviceInfo:
    conditions = _conditions(reply.conditions)
    return DeviceInfo(
        address=address,
        board=reply.board,
        device_id=reply.device_id,
        power_mode=reply.power_mode,
        power_modes=tuple(reply.power_modes),
        runtime=reply.runtime.name,
        runtime_version=reply.runtime.version,
        processor=reply.runtime.processor,
        precisions=tuple(reply.runtime.precisions),
        threads=reply.runtime.threads,
        model_bytes=reply.limits.model_bytes,
        power_source=reply.power_source,
        temperature=conditions.temperature,
        throttled=_given(reply.conditions, "throttled"),
        busy=reply.busy,
        queued=reply.queued,
        worker_version=reply.worker_version,
        versions=dict(reply.versions),
        clocks_mhz=conditions.clocks_mhz,
    )
