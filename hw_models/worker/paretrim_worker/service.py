"""The calls of device.proto on top of the store, the turnstile and the sandbox.

Every call needs a deadline, which bounds everything done for it. Requests arrive as bytes and are
parsed here, so that garbage is INVALID_ARGUMENT like any other wrong request.
"""

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from paretrim_worker import PROTOCOL_VERSION, __version__, timing
from paretrim_worker import device_pb2 as pb
from paretrim_worker.board import Board, Conditions, throttled_between
from paretrim_worker.errors import BadRequest, Busy, WorkerError
from paretrim_worker.power import Meter, Recorder
from paretrim_worker.sandbox import Sandbox
from paretrim_worker.store import ModelStore
from paretrim_worker.turnstile import Turnstile

SERVICE = "paretrim.device.v1.Device"
UPLOADS_AT_ONCE = 4
MAX_COUNT = 20_000
"""Largest warm-up, number, repeat and runs of a request."""

LOG = logging.getLogger("paretrim_worker")

M = TypeVar("M", bound=Message)
STAGES = {
    "loading": pb.Progress.STAGE_LOADING,
    "timing": pb.Progress.STAGE_TIMING,
}


class Limits(NamedTuple):
    """What one call may cost.

    Attributes:
        call_seconds: However long the client would wait.
        queue: Calls that may wait for their turn.
    """

    call_seconds: float = 900.0
    queue: int = 8


class Call:
    """One call that takes a turn: its deadline, and what to do when the client goes away."""

    def __init__(self, context: grpc.ServicerContext, worker: "Worker") -> None:
        self.deadline_s = time.monotonic() + min(remaining_s(context), worker.limits.call_seconds)
        self.cancelled = threading.Event()
        self._worker = worker
        self._ticket = worker.turnstile.ticket()
        self._lock = threading.Lock()
        self._inside = False
        if not context.add_callback(self._gone):
            self._gone()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn and hold it; while it is held the sandbox is this call's."""
        with self._worker.turnstile.turn(self._ticket, self.deadline_s):
            with self._lock:
                self._inside = True
            try:
                yield
            finally:
                with self._lock:
                    self._inside = False

    def run(self, job: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """Run a job in the sandbox; only while the turn is held."""
        assert self._inside
        return self._worker.sandbox.run(job, self.deadline_s, self.cancelled)

    def result(self, job: Dict[str, Any]) -> Dict[str, Any]:
        """Run a job, return its result."""
        answers = [answer["result"] for answer in self.run(job) if "result" in answer]
        result: Dict[str, Any] = answers[-1]
        return result

    def _gone(self) -> None:
        """The call has ended, by itself or because the client went away."""
        self.cancelled.set()
        self._ticket.cancel()
        with self._lock:  # not after the turn: it would hit the next call's job
            if self._inside:
                self._worker.sandbox.interrupt()


class Worker(NamedTuple):
    """All the parts of one worker."""

    sandbox: Sandbox
    store: ModelStore
    turnstile: Turnstile
    board: Board
    meter: Optional[Meter]
    limits: Limits
    threads: int


class DeviceService:
    """Handlers of the four calls."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._uploads = threading.BoundedSemaphore(UPLOADS_AT_ONCE)

    def handler(self) -> grpc.GenericRpcHandler:
        """The handlers for a grpc server; bytes in, bytes out."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Info": grpc.unary_unary_rpc_method_handler(answering(self.info)),
                "Upload": grpc.stream_unary_rpc_method_handler(answering(self.upload)),
                "Measure": grpc.unary_stream_rpc_method_handler(streaming(self.measure)),
                "Profile": grpc.unary_unary_rpc_method_handler(answering(self.profile)),
            },
        )

    def upload(self, parts: Iterator[bytes], context: grpc.ServicerContext) -> pb.UploadReply:
        """Store a model."""
        if not self._uploads.acquire(blocking=False):
            raise Busy("{} uploads are under way already".format(UPLOADS_AT_ONCE))
        try:
            with ended_after(context, self._worker.limits.call_seconds):
                return self._upload(parts, Call(context, self._worker))
        finally:
            self._uploads.release()

    def measure(self, data: bytes, context: grpc.ServicerContext) -> Iterator[pb.MeasureEvent]:
        """Time a model; yield events until the result."""
        request = parse(pb.MeasureRequest, data)
        job = measure_job(request, self._worker.store.path(request.model_sha256))
        return self._measure(request, job, Call(context, self._worker))

    def profile(self, data: bytes, context: grpc.ServicerContext) -> pb.ProfileReply:
        """Time a model's layers."""
        request = parse(pb.ProfileRequest, data)
        check_count("runs", request.runs)
        job = {
            "do": "profile",
            "model": str(self._worker.store.path(request.model_sha256)),
            "precision": request.precision,
            "shapes": shapes(request.input_shapes),
            "runs": request.runs,
        }
        call = Call(context, self._worker)
        with call.turn():
            layers = call.result(job)["layers"]
        return pb.ProfileReply(layers=[pb.LayerTime(**layer) for layer in layers])

    def info(self, data: bytes, context: grpc.ServicerContext) -> pb.InfoReply:
        """Say what this device is."""
        parse(pb.InfoRequest, data)
        worker = self._worker
        facts = worker.sandbox.facts()
        return pb.InfoReply(
            protocol_version=PROTOCOL_VERSION,
            worker_version=__version__,
            board=worker.board.name(),
            device_id=worker.board.device_id(),
            power_mode=worker.board.power_mode(),
            power_modes=worker.board.power_modes(),
            runtime=pb.Runtime(threads=worker.threads, **facts),
            versions=worker.board.versions(),
            conditions=conditions_message(worker.board.conditions()),
            limits=pb.Limits(
                model_bytes=worker.store.model_bytes,
                call_seconds=worker.limits.call_seconds,
                queue=worker.limits.queue,
            ),
            queued=worker.turnstile.waiting,
            busy=worker.turnstile.busy,
            power_source=worker.meter.source if worker.meter else "",
        )

    def _upload(self, parts: Iterator[bytes], call: Call) -> pb.UploadReply:
        store = self._worker.store
        first = parse(pb.UploadRequest, next(parts, b""))
        if first.WhichOneof("part") != "start":
            raise BadRequest("an upload starts with its digest and size")
        start = first.start
        if store.holds(start.sha256):
            return pb.UploadReply(sha256=start.sha256, size_bytes=start.size_bytes, was_stored=True)
        with store.receive(start.sha256, start.size_bytes) as upload:
            for data in parts:
                part = parse(pb.UploadRequest, data)
                if part.WhichOneof("part") != "chunk":
                    raise BadRequest("after its start an upload has chunks only")
                upload.add(part.chunk)
            upload.check()
            with call.turn():
                call.result({"do": "check", "model": str(upload.path)})
                store.keep(upload, start.sha256)
        return pb.UploadReply(sha256=start.sha256, size_bytes=start.size_bytes)

    def _measure(
        self, request: pb.MeasureRequest, job: Dict[str, Any], call: Call
    ) -> Iterator[pb.MeasureEvent]:
        turnstile = self._worker.turnstile
        if turnstile.busy:
            yield progress_event(pb.Progress.STAGE_QUEUED, 0, turnstile.waiting + 1)
        with call.turn(), recording(self._worker.meter) as recorder:
            start_s = time.monotonic()
            self._idle(request, call)
            before = self._worker.board.conditions()
            power_mode = self._worker.board.power_mode()
            idle_end_s = time.monotonic()
            result: Dict[str, Any] = {}
            for answer in call.run(job):
                if "stage" in answer:
                    stage = STAGES[answer["stage"]]
                    yield progress_event(stage, answer["done"], answer["total"])
                else:
                    result = answer["result"]
            after = self._worker.board.conditions()
            rest_start_s = time.monotonic()
            self._idle(request, call)
            reply = timing_reply(request, result)
            reply.before.CopyFrom(conditions_message(before))
            reply.after.CopyFrom(conditions_message(after, throttled_between(before, after)))
            reply.power_mode = power_mode
            if recorder is not None:
                add_power(reply, recorder, result, (start_s, idle_end_s), rest_start_s)
        yield pb.MeasureEvent(result=reply)

    def _idle(self, request: pb.MeasureRequest, call: Call) -> None:
        """Wait while the recorder takes the idle power; no meter, no wait."""
        if self._worker.meter is not None:
            call.cancelled.wait(min(request.idle_s, max(0.0, call.deadline_s - time.monotonic())))


def answering(handle: Callable[..., Message]) -> Callable[..., bytes]:
    """Make a handler for grpc: it wants a deadline; what goes wrong becomes the call's status."""

    def call(request: Any, context: grpc.ServicerContext) -> bytes:
        try:
            remaining_s(context)
            return handle(request, context).SerializeToString()
        except (WorkerError, OSError) as error:
            context.abort(*status_of(error))

    return call


def streaming(handle: Callable[..., Iterator[Message]]) -> Callable[..., Iterator[bytes]]:
    """The same for a handler that yields."""

    def call(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            remaining_s(context)
            for message in handle(request, context):
                yield message.SerializeToString()
        except (WorkerError, OSError) as error:
            context.abort(*status_of(error))

    return call


def remaining_s(context: grpc.ServicerContext) -> float:
    """The seconds that the client still waits.

    Raises:
        BadRequest: If it waits for ever.
    """
    remaining = context.time_remaining()
    if remaining is None or remaining > 10 * 365 * 86400:  # grpc's "never"
        raise BadRequest("the call has no deadline; every call needs one")
    return float(remaining)


def status_of(error: Exception) -> Tuple[grpc.StatusCode, str]:
    """What the client is told about an error."""
    if isinstance(error, WorkerError):
        return error.code, str(error)
    assert isinstance(error, OSError)
    LOG.error("storage: %s", error)
    return grpc.StatusCode.INTERNAL, "storage: {}".format(error.strerror)


@contextlib.contextmanager
def ended_after(context: grpc.ServicerContext, seconds: float) -> Iterator[None]:
    """End the call after some time, even while it waits for a client that sends nothing."""
    timer = threading.Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def recording(meter: Optional[Meter]) -> Iterator[Optional[Recorder]]:
    """Record the meter, if there is one."""
    if meter is None:
        yield None
        return
    recorder = Recorder(meter)
    with recorder.recording():
        yield recorder


def parse(kind: Callable[[], M], data: bytes) -> M:
    """Read a message.

    Raises:
        BadRequest: If the bytes are not one.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise BadRequest("the request cannot be read; is it of this protocol?") from None
    return message


def measure_job(request: pb.MeasureRequest, path: Path) -> Dict[str, Any]:
    """The job of a request for the measuring process.

    Raises:
        BadRequest: If a number is out of range.
    """
    check_count("number", request.number)
    check_count("repeat", request.repeat)
    check_count("warm_up", request.warm_up, least=0)
    for name, seconds in (("min_time_s", request.min_time_s), ("idle_s", request.idle_s)):
        if not 0 <= seconds <= 600:
            raise BadRequest("{}: expected 0 to 600 seconds, got {}".format(name, seconds))
    plan = timing.Plan(request.warm_up, request.number, request.repeat, request.min_time_s)
    return {
        "do": "measure",
        "model": str(path),
        "precision": request.precision,
        "shapes": shapes(request.input_shapes),
        "plan": plan._asdict(),
    }


def check_count(name: str, count: int, least: int = 1) -> None:
    """Raise BadRequest unless a count is in range."""
    if not least <= count <= MAX_COUNT:
        raise BadRequest("{}: expected {} to {}, got {}".format(name, least, MAX_COUNT, count))


def shapes(messages: Any) -> Dict[str, List[int]]:
    """Shapes by input name as plain lists."""
    return {name: [int(dim) for dim in shape.dims] for name, shape in messages.items()}


def progress_event(stage: Any, done: int, total: int) -> pb.MeasureEvent:
    """One step of progress."""
    return pb.MeasureEvent(progress=pb.Progress(stage=stage, done=done, total=total))


def conditions_message(conditions: Conditions, throttled: Optional[bool] = None) -> pb.Conditions:
    """A message of conditions; `throttled` overrides what the moment says."""
    message = pb.Conditions(
        clocks_mhz=conditions.clocks_mhz, temperatures_c=conditions.temperatures_c
    )
    told = conditions.throttled if throttled is None else throttled
    if told is not None:
        message.throttled = told
    return message


def timing_reply(request: pb.MeasureRequest, result: Dict[str, Any]) -> pb.MeasureResult:
    """The reply's times and outputs."""
    samples_ms = result["samples_ms"]
    return pb.MeasureResult(
        model_sha256=request.model_sha256,
        samples_ms=samples_ms,
        median_ms=timing.quantile(samples_ms, 0.5),
        p90_ms=timing.quantile(samples_ms, 0.9),
        p99_ms=timing.quantile(samples_ms, 0.99),
        outputs=[pb.Output(**output) for output in result["outputs"]],
        window_s=result["end_s"] - result["start_s"],
        load_s=result["load_s"],
    )


def add_power(
    reply: pb.MeasureResult,
    recorder: Recorder,
    result: Dict[str, Any],
    idle_before: Tuple[float, float],
    rest_start_s: float,
) -> None:
    """Add power and energy to a reply, unless no reading fell into the timed window."""
    mean_mw, readings = recorder.mean_mw(result["start_s"], result["end_s"])
    if mean_mw is None:
        return
    reply.power.source = recorder.source
    reply.power.mean_mw = mean_mw
    reply.power.readings = readings
    reply.power.energy_mj = mean_mw * reply.median_ms * 1e-3  # mW x ms = 1e-3 mJ
    before_mw, _ = recorder.mean_mw(*idle_before)
    if before_mw is not None:
        reply.power.idle_before_mw = before_mw
    after_mw, _ = recorder.mean_mw(rest_start_s, time.monotonic())
    if after_mw is not None:
        reply.power.idle_after_mw = after_mw
