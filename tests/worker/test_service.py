"""The worker as its clients meet it: real gRPC over TCP on loopback."""

import ctypes
import hashlib
import math
import os
import platform
import signal
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paretrim_worker import PROTOCOL_VERSION
from paretrim_worker import device_pb2 as pb

from .conftest import TIMEOUT_S, Wire, children_of, chunk, request_of, start


@pytest.fixture
def refused():
    """Run a call that has to fail; return the status."""

    def run(code, call, *arguments, **options):
        with pytest.raises(grpc.RpcError) as caught:
            result = call(*arguments, **options)
            if hasattr(result, "__iter__"):
                list(result)
        assert caught.value.code() == code, caught.value.details()
        return caught.value.details()

    return run


INVALID = grpc.StatusCode.INVALID_ARGUMENT


def health(wire, timeout_s=5.0, service=""):
    stub = health_pb2_grpc.HealthStub(wire.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s).status


def wait_until(happened, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_gone(pid):
    """Ended; a zombie counts: it waits for its parent only."""
    try:
        return "State:\tZ" in Path("/proc/%d/status" % pid).read_text()
    except FileNotFoundError:
        return True


class TestCalls:
    def test_info(self, wire):
        info = wire.info()
        assert info.protocol_version == PROTOCOL_VERSION
        assert info.board
        assert len(info.device_id) >= 1
        assert info.power_mode in info.power_modes
        assert info.runtime.name == "onnxruntime"
        assert info.runtime.threads == 1
        assert list(info.runtime.precisions) == ["fp32", "int8"]
        assert info.versions["python"]
        assert info.limits.queue == 2

    def test_health(self, wire):
        assert health(wire) == health_pb2.HealthCheckResponse.SERVING

    def test_measure(self, wire, models):
        digest = wire.upload(models.conv())
        events = list(wire.measure_call(request_of(digest, repeat=7, number=2)))
        stages = [event.progress.stage for event in events if event.HasField("progress")]
        assert stages[0] == pb.Progress.STAGE_LOADING
        assert pb.Progress.STAGE_TIMING in stages
        result = events[-1].result
        assert result.model_sha256 == digest
        assert len(result.samples_ms) == 7
        assert all(math.isfinite(sample) and sample > 0 for sample in result.samples_ms)
        ordered = sorted(result.samples_ms)
        assert result.median_ms == ordered[3]
        assert result.median_ms <= result.p90_ms <= result.p99_ms <= ordered[-1]
        assert result.power_mode
        assert result.outputs[0].finite
        assert not result.HasField("power")  # no meter here: absent, not zero

    def test_the_minimum_time_is_kept(self, wire, models):
        result = wire.measure(wire.upload(models.conv(size=96)), min_time_s=0.3)
        assert result.window_s >= 0.3
        assert len(result.samples_ms) > 5

    def test_a_shape_left_open_is_given(self, wire, models):
        digest = wire.upload(models.conv(open_shape=True))
        result = wire.measure(digest, input_shapes={"x": pb.Shape(dims=[1, 3, 20, 20])})
        assert list(result.outputs[0].dims) == [1, 8, 20, 20]

    def test_profile(self, wire, models):
        digest = wire.upload(models.slow())
        request = pb.ProfileRequest(model_sha256=digest, precision="fp32", runs=2)
        reply = wire.unary("Profile", request.SerializeToString(), pb.ProfileReply)
        assert sum(layer.kind == "Conv" for layer in reply.layers) == 4
        assert all(layer.mean_ms > 0 for layer in reply.layers)

    def test_what_is_stored_is_not_sent_again(self, wire, models):
        data = models.conv(size=40)
        digest = wire.upload(data)

        def parts():
            yield start(digest, len(data))
            raise AssertionError("a chunk was asked for")

        reply = wire.channel.stream_unary(
            "/paretrim.device.v1.Device/Upload",
            response_deserializer=pb.UploadReply.FromString,
        )(iter([start(digest, len(data))]), timeout=TIMEOUT_S)
        assert reply.was_stored


# What a worker may answer to a wrong request: a count that became large also takes too long.
TYPED = (
    INVALID,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def valid_requests(model, digest):
    """(method, serialized requests, kind of reply) of each call, for a stored model."""
    fields = {
        "model_sha256": digest,
        "precision": "fp32",
        "input_shapes": {"x": pb.Shape(dims=[1, 3, 8, 8])},
    }
    measure = pb.MeasureRequest(**fields, warm_up=1, number=1, repeat=2, min_time_s=0.01)
    profile = pb.ProfileRequest(**fields, runs=1)
    stored = [start(digest, len(model)), chunk(model)]
    other = model + b"\x00"  # no model: its chunks are read each time
    refused = [start(hashlib.sha256(other).digest(), len(other)), chunk(other)]
    unknown_field = b"\x78\x01"  # number 15: Info takes requests of later releases
    return [
        ("Info", [unknown_field], pb.InfoReply),
        ("Upload", stored, pb.UploadReply),
        ("Upload", refused, pb.UploadReply),
        ("Measure", [measure.SerializeToString()], pb.MeasureEvent),
        ("Profile", [profile.SerializeToString()], pb.ProfileReply),
    ]


@st.composite
def mutations_of(draw, data):
    """Some bytes of it replaced by others, by none or by more."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        changed[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(changed)


class TestRefusals:
    def test_a_wrong_digest(self, wire, models, refused):
        wrong = hashlib.sha256(b"another").digest()
        data = models.conv(size=41)
        code = grpc.StatusCode.DATA_LOSS
        says = refused(code, wire.upload_parts, [start(wrong, len(data)), chunk(data)])
        assert "wrong digest" in says
        refused(grpc.StatusCode.NOT_FOUND, wire.measure, wrong)

    def test_a_truncated_upload(self, wire, models, refused):
        data = models.conv(size=42)
        digest = hashlib.sha256(data).digest()
        code = grpc.StatusCode.DATA_LOSS
        says = refused(code, wire.upload_parts, [start(digest, len(data)), chunk(data[:99])])
        assert "ended early" in says

    def test_an_oversize_upload(self, wire, refused):
        says = refused(INVALID, wire.upload_parts, [start(b"0" * 32, 2**40)])
        assert "model size" in says

    def test_more_than_announced(self, wire, refused):
        parts = [start(b"0" * 32, 10), chunk(b"0" * 11)]
        assert "more bytes" in refused(INVALID, wire.upload_parts, parts)

    @pytest.mark.parametrize("name", [b"../../../etc/passwd", b"/etc/passwd", b"", b"\x00" * 31])
    def test_traversal_names(self, wire, refused, name):
        refused(INVALID, wire.upload_parts, [start(name, 10), chunk(b"0" * 10)])
        refused(INVALID, wire.measure, name)

    @pytest.mark.parametrize(
        "parts", [[], [b""], [chunk(b"0")], [start(b"0" * 32, 9), start(b"0" * 32, 9)], [b"\xff"]]
    )
    def test_uploads_out_of_order(self, wire, refused, parts):
        refused(INVALID, wire.upload_parts, parts)

    def test_a_chunk_larger_than_a_message(self, wire, refused):
        parts = [start(b"0" * 32, 2**22), chunk(b"0" * 2**22)]
        refused(grpc.StatusCode.RESOURCE_EXHAUSTED, wire.upload_parts, parts)

    @pytest.mark.parametrize("data", [b"no model", b"\x80\x04\x95\x00."])
    def test_files_that_are_no_models(self, wire, refused, data):
        refused(INVALID, wire.upload, data)

    def test_a_model_with_an_operator_that_is_not_allowed(self, wire, models, refused):
        from onnx import helper

        data = models.model([helper.make_node("Attack", ["x"], ["y"])], [], [1, 3, 8, 8])
        assert "'Attack'" in refused(INVALID, wire.upload, data)
        digest = hashlib.sha256(data).digest()
        refused(grpc.StatusCode.NOT_FOUND, wire.measure, digest)

    def test_a_model_that_the_runtime_cannot_run(self, wire, models, refused):
        from onnx import helper

        data = models.model([helper.make_node("Conv", ["x", "absent"], ["y"])], [], [1, 3, 8, 8])
        digest = wire.upload(data)
        refused(grpc.StatusCode.FAILED_PRECONDITION, wire.measure, digest)

    def test_a_model_that_wants_more_memory_than_it_may_have(self, wire, models, refused):
        import numpy as np
        from onnx import helper, numpy_helper

        repeats = numpy_helper.from_array(np.array([1, 1, 2**16, 2**12], "int64"), "r")
        data = models.model([helper.make_node("Tile", ["x", "r"], ["y"])], [repeats], [1, 3, 8, 8])
        digest = wire.upload(data)
        refused(grpc.StatusCode.FAILED_PRECONDITION, wire.measure, digest)
        assert wire.measure(wire.upload(models.conv())).median_ms > 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"repeat": 0},
            {"number": 0},
            {"number": 10**6},
            {"warm_up": 10**6},
            {"min_time_s": -1.0},
            {"min_time_s": math.nan},
            {"min_time_s": math.inf},
            {"idle_s": 1e9},
            {"precision": "fp64"},
            {"precision": "int8"},
            {"input_shapes": {"x": pb.Shape(dims=[1, 3, 9, 9])}},
        ],
    )
    def test_requests_out_of_range(self, wire, models, refused, changes):
        refused(INVALID, wire.measure, wire.upload(models.conv()), **changes)

    @pytest.mark.parametrize("method", ["Info", "Upload", "Measure", "Profile"])
    def test_a_call_without_a_deadline(self, wire, models, refused, method):
        data = models.conv()
        digest = wire.upload(data)
        requests = {
            "Info": [b""],
            "Upload": [start(b"0" * 32, len(data)), chunk(data)],
            "Measure": [request_of(digest).SerializeToString()],
            "Profile": [
                pb.ProfileRequest(model_sha256=digest, precision="fp32", runs=1).SerializeToString()
            ],
        }
        call = wire.channel.stream_stream("/paretrim.device.v1.Device/" + method)
        assert "deadline" in refused(INVALID, call, iter(requests[method]))

    def test_health_needs_no_deadline(self, wire):
        assert health(wire, timeout_s=None) == health_pb2.HealthCheckResponse.SERVING

    def test_a_method_that_does_not_exist(self, wire, refused):
        refused(grpc.StatusCode.UNIMPLEMENTED, wire.unary, "Shell", b"", None)

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(method=st.sampled_from(["Info", "Profile", "Measure", "Upload"]), data=st.binary())
    def test_garbage_gets_a_typed_error(self, wire, method, data):
        try:
            if method == "Upload":
                wire.upload_parts([data, data])
            elif method == "Measure":
                list(
                    wire.channel.unary_stream("/paretrim.device.v1.Device/Measure")(data, timeout=9)
                )
            else:
                wire.unary(method, data, None)
        except grpc.RpcError as error:
            assert error.code() in (INVALID, grpc.StatusCode.NOT_FOUND), error.details()

    @settings(
        max_examples=120,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_mutated_requests_get_a_typed_error_or_a_reply(self, wire, models, data):
        """Bytes of valid requests changed, cut out and put in; the worker goes on."""
        model = models.conv(size=8)
        digest = wire.upload(model)
        method, stream, reply = data.draw(
            st.sampled_from(valid_requests(model, digest)), label="valid request"
        )
        sent = [*stream]
        which = data.draw(st.integers(0, len(sent) - 1))
        sent[which] = data.draw(mutations_of(sent[which]), label="sent")
        call = wire.channel.stream_stream(
            "/paretrim.device.v1.Device/" + method, response_deserializer=reply.FromString
        )
        try:
            assert list(call(iter(sent), timeout=10))
        except grpc.RpcError as error:
            assert error.code() in TYPED, error.details()
        assert health(wire) == health_pb2.HealthCheckResponse.SERVING
        assert wire.measure(digest, repeat=1).median_ms > 0

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_mutated_models_get_a_typed_error(self, wire, models, shared_worker, data):
        model = bytearray(models.conv(size=8))
        for _ in range(data.draw(st.integers(1, 3))):
            model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
        try:
            result = wire.measure(wire.upload(bytes(model)))
            assert result.median_ms > 0
        except grpc.RpcError as error:
            status = grpc.StatusCode
            allowed = (  # a padding of millions takes long, or more memory than there is
                INVALID,
                status.FAILED_PRECONDITION,
                status.ABORTED,
                status.DEADLINE_EXCEEDED,
            )
            assert error.code() in allowed, error.details()
        assert health(wire) == health_pb2.HealthCheckResponse.SERVING
        outside = [path for path in shared_worker.folder.iterdir() if path.is_file()]
        assert outside == []


def name_of(pid):
    """What a process runs; nothing if it has ended."""
    try:
        return Path("/proc/%d/comm" % pid).read_text().strip()
    except OSError:
        return ""


SLOW_TRTEXEC = """#!/bin/sh
# Builds at once; as silent as the real one while it times an engine, and takes ten minutes.
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec"
case "$*" in *--loadEngine=*) exec sleep 600 ;; esac
for argument; do
  case "$argument" in --exportOutput=*) echo "[]" > "${argument#*=}" ;; esac
done
"""
LONG = {"min_time_s": 600.0, "number": 1000, "repeat": 5}


class TestFaults:
    """The measuring process or its client goes away in the middle."""

    def start_measuring(self, wire, digest, timeout_s=60.0):
        """A measurement under way: its call, once it is timing."""
        call = wire.measure_call(request_of(digest, **LONG), timeout_s)
        for event in call:
            if event.progress.stage == pb.Progress.STAGE_TIMING:
                return call
        raise AssertionError("it ended")

    def kill_idle_child(self, worker):
        child = worker.child()
        os.kill(child, signal.SIGKILL)
        threads = Path("/proc/%d/task" % child)  # the last one to end ends the process
        wait_until(lambda: is_gone(child) and len(list(threads.iterdir())) == 1)

    def test_the_measuring_process_is_fenced_in(self, own_worker, own_wire):
        own_wire.info()
        child = own_worker.child()
        assert os.getsid(child) == child  # it and all it starts are killed together
        limits = Path("/proc/%d/limits" % child).read_text().splitlines()
        soft = {line[:25].strip(): line[25:].split()[0] for line in limits[1:]}
        assert soft["Max core file size"] == "0"
        assert soft["Max open files"] == "512"
        assert soft["Max file size"] == str(4 * 1024**3)
        assert soft["Max address space"] == str(4096 * 1024**2)

    def test_kill_9_of_the_measuring_process(self, own_worker, own_wire, models, refused):
        digest = own_wire.upload(models.conv())
        call = self.start_measuring(own_wire, digest)
        os.kill(own_worker.child(), signal.SIGKILL)
        says = refused(grpc.StatusCode.ABORTED, list, call)
        assert "-9" in says
        assert own_wire.measure(digest).median_ms > 0

    def test_kill_9_of_the_measuring_process_ends_what_it_started(
        self, start_worker, tmp_path, models, refused
    ):
        """A trtexec that ran on would slow the next measurement down."""
        slow = tmp_path / "trtexec"
        slow.write_text(SLOW_TRTEXEC)
        slow.chmod(0o755)
        worker = start_worker("--runtime=trtexec", "--processor=auto", "--trtexec=%s" % slow)
        wire = Wire(worker.address)
        call = self.start_measuring(wire, wire.upload(models.conv()))
        child = worker.child()
        wait_until(lambda: "sleep" in [name_of(tool) for tool in children_of(child)])
        (tool,) = children_of(child)
        os.kill(child, signal.SIGKILL)
        assert "(-9)" in refused(grpc.StatusCode.ABORTED, list, call)
        wait_until(lambda: is_gone(tool), seconds=5.0)
        wire.close()

    def test_a_stopped_measuring_process_is_killed_at_the_deadline(
        self, own_worker, own_wire, models, refused
    ):
        digest = own_wire.upload(models.conv())
        call = self.start_measuring(own_wire, digest, timeout_s=2.0)
        stopped = own_worker.child()
        os.kill(stopped, signal.SIGSTOP)
        refused(grpc.StatusCode.DEADLINE_EXCEEDED, list, call)
        wait_until(lambda: is_gone(stopped))
        assert own_wire.measure(digest).median_ms > 0

    def test_health_and_info_answer_while_measuring(self, own_worker, own_wire, models):
        digest = own_wire.upload(models.conv())
        call = self.start_measuring(own_wire, digest)
        os.kill(own_worker.child(), signal.SIGSTOP)
        assert health(own_wire) == health_pb2.HealthCheckResponse.SERVING
        assert own_wire.info(timeout_s=5).busy
        call.cancel()
        assert own_wire.measure(digest).median_ms > 0

    def test_a_client_that_goes_away_ends_its_measurement(self, own_worker, own_wire, models):
        digest = own_wire.upload(models.conv())
        other = Wire(own_worker.address)
        self.start_measuring(other, digest)
        other.close()
        assert own_wire.measure(digest).median_ms > 0  # its turn comes: the other has ended

    def test_kill_9_of_the_worker_leaves_no_process(self, own_worker, own_wire, models):
        digest = own_wire.upload(models.conv())
        self.start_measuring(own_wire, digest)
        child = own_worker.child()
        own_worker.process.kill()
        own_worker.process.wait()
        wait_until(lambda: is_gone(child))

    def test_the_next_worker_deletes_what_a_killed_one_left(
        self, own_worker, own_wire, models, start_worker
    ):
        own_wire.upload(models.conv())
        own_worker.process.kill()
        own_worker.process.wait()
        left = list(own_worker.folder.glob("paretrim-worker-*"))
        assert len(left) == 1
        start_worker()
        assert not left[0].exists()

    def test_sigterm_ends_all_and_deletes_all(self, own_worker, own_wire, models):
        own_wire.upload(models.conv())
        child = own_worker.child()
        errors = own_worker.stop()
        assert own_worker.process.returncode == 0, errors
        assert "Traceback" not in errors
        wait_until(lambda: is_gone(child))
        assert list(own_worker.folder.glob("paretrim-worker-*")) == []

    def test_sigterm_to_another_thread_ends_it_too(self, own_worker, own_wire, models):
        """A signal that finds the main thread busy goes to one of grpc's."""
        own_wire.upload(models.conv())
        task = max(
            int(path.name) for path in Path("/proc/%d/task" % own_worker.process.pid).iterdir()
        )
        number = {"x86_64": 234, "aarch64": 131}.get(platform.machine())  # tgkill's
        if number is None:
            pytest.skip("the number of this system call is not known here")
        arguments = (number, own_worker.process.pid, task, int(signal.SIGTERM))
        assert ctypes.CDLL(None).syscall(*arguments) == 0
        own_worker.process.wait(timeout=TIMEOUT_S)

    def test_the_queue_is_bounded(self, own_worker, own_wire, models, refused):
        """Queue of 2: one measures, two wait, the fourth is told to come later."""
        digest = own_wire.upload(models.conv())
        inside = self.start_measuring(own_wire, digest)
        waiting = [own_wire.measure_call(request_of(digest)) for _ in range(2)]
        wait_until(lambda: own_wire.info().queued == 2)
        says = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, own_wire.measure, digest)
        assert "queue is full" in says
        inside.cancel()
        for call in waiting:
            events = list(call)
            assert events[0].progress.stage == pb.Progress.STAGE_QUEUED
            assert events[-1].result.median_ms > 0

    def test_two_clients_race(self, own_worker, models):
        """Both get right results; never two measurements at the same time."""
        wires = [Wire(own_worker.address) for _ in range(2)]
        digests = [wires[0].upload(models.conv(size=size)) for size in (16, 64)]

        def run(which):
            results = []
            for _ in range(8):
                before = time.monotonic()
                result = wires[which].measure(digests[which], min_time_s=0.02)
                results.append((before, time.monotonic(), result))
            return results

        with futures.ThreadPoolExecutor(2) as pool:
            both = list(pool.map(run, (0, 1)))
        for which, results in enumerate(both):
            assert all(result.model_sha256 == digests[which] for _, _, result in results)
        spent_s = sum(result.window_s for results in both for _, _, result in results)
        begin = min(results[0][0] for results in both)
        end = max(results[-1][1] for results in both)
        assert spent_s <= end - begin
        for wire in wires:
            wire.close()

    def test_a_cancelled_upload_leaves_no_file(self, own_worker, own_wire):
        def parts():
            yield start(b"0" * 32, 10**6)
            yield chunk(b"0" * 1000)
            time.sleep(60)

        call = own_wire.channel.stream_unary("/paretrim.device.v1.Device/Upload")
        with pytest.raises(grpc.RpcError):
            call(parts(), timeout=0.5)
        wait_until(lambda: not list(own_worker.folder.glob("paretrim-worker-*/*/upload-*")))

    def test_no_call_lasts_longer_than_the_worker_allows(self, start_worker, models, refused):
        """Whatever the client's deadline; four uploads that stand still would keep others out."""
        wire = Wire(start_worker("--max-seconds=1").address)

        def parts():
            yield start(b"0" * 32, 10**6)
            time.sleep(20)

        begin = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            wire.channel.stream_unary("/paretrim.device.v1.Device/Upload")(parts(), timeout=60)
        assert caught.value.code() == grpc.StatusCode.CANCELLED
        assert time.monotonic() - begin < 10
        digest = wire.upload(models.conv())
        refused(grpc.StatusCode.DEADLINE_EXCEEDED, wire.measure, digest, **LONG)
        wire.close()

    def test_health_says_that_the_runtime_no_longer_starts(
        self, trtexec_worker, trtexec, models, refused
    ):
        wire = Wire(trtexec_worker.address)
        digest = wire.upload(models.conv())

        def both():
            return {health(wire, service=name) for name in ("", "paretrim.device.v1.Device")}

        Path(trtexec).chmod(0o644)
        self.kill_idle_child(trtexec_worker)
        says = refused(grpc.StatusCode.ABORTED, wire.measure, digest)
        assert "cannot start: trtexec: no program" in says
        assert both() == {health_pb2.HealthCheckResponse.NOT_SERVING}
        Path(trtexec).chmod(0o755)
        assert wire.measure(digest).median_ms > 0
        assert both() == {health_pb2.HealthCheckResponse.SERVING}
        wire.close()

    def test_a_killed_measuring_process_leaves_no_engines(self, trtexec_worker, models):
        wire = Wire(trtexec_worker.address)
        for size in (8, 9, 10):
            wire.measure(wire.upload(models.conv(size=size)))
            assert len(list(trtexec_worker.folder.rglob("*.engine"))) == 1
            self.kill_idle_child(trtexec_worker)
        wire.close()

    def test_nothing_leaks(self, own_worker, own_wire, models, refused):
        """Descriptors, threads and files stay flat over 500 measurements, failures included.

        Those of the client, which is this process, and of the worker, whose measuring process is
        replaced once on the way.
        """
        digest = own_wire.upload(models.conv(size=8))
        wrong = own_wire.upload(models.conv(size=9, open_shape=True))

        def measure(count):
            for number in range(count):
                own_wire.measure(digest, repeat=2)
                if number % 5 == 0:
                    refused(INVALID, own_wire.measure, wrong)
                    refused(INVALID, own_wire.upload, b"no model")

        def held():
            client, worker = os.getpid(), own_worker.process.pid
            places = [(pid, kind) for pid in (client, worker) for kind in ("fd", "task")]
            places.append((own_worker.child(), "fd"))
            counts = [len(list(Path("/proc/%d/%s" % place).iterdir())) for place in places]
            return [*counts, sum(1 for _ in own_worker.folder.rglob("*"))]

        measure(30)  # threads of the pool are made on demand
        before, child = held(), own_worker.child()
        measure(500)
        assert own_worker.child() != child
        assert all(now <= then + 2 for now, then in zip(held(), before)), (before, held())
