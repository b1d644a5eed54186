"""Behaves like NVIDIA's trtexec 8.5 as far as the worker uses it; computes with onnxruntime.

It takes the real flags and refuses others, builds an "engine" (the model behind a header with the
precision flags), warms up for a time, goes on until both iterations and duration are reached, and
writes the exports in trtexec's format. With TRTEXEC_EXPORTS_WARM_UP=1 its times include the
warm-up, as those of TensorRT 7 do.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

MAGIC = b"ptrt"


def parse(arguments):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in (
        "onnx", "saveEngine", "loadEngine", "shapes", "loadInputs",
        "precisionConstraints", "layerPrecisions",
    ):  # fmt: skip
        parser.add_argument("--" + name)
    for name in ("exportTimes", "exportProfile", "exportOutput"):
        parser.add_argument("--" + name, type=Path)
    for name, default in (("iterations", 10), ("duration", 3), ("warmUp", 200)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--int8", action="store_true")
    return parser.parse_args(arguments)


def engine(chosen):
    if chosen.loadEngine:
        data = Path(chosen.loadEngine).read_bytes()
        if data[:4] != MAGIC:
            fail("Engine deserialization failed")
        return data[6:]
    model = Path(chosen.onnx).read_bytes()
    if b"QuantizeLinear" in model and not chosen.int8:
        fail(
            "Error Code 4: Internal Error (Int8 precision has been set for a layer but int8 is "
            "not configured in the builder)"
        )
    if chosen.saveEngine:
        flags = bytes([48 + chosen.fp16, 48 + chosen.int8])
        Path(chosen.saveEngine).write_bytes(MAGIC + flags + model)
    return model


def inputs(session, chosen):
    if not chosen.loadInputs:  # the real one draws them by chance
        return {
            value.name: np.zeros(value.shape, dtype="float32") for value in session.get_inputs()
        }
    files = dict(pair.split(":", 1) for pair in chosen.loadInputs.split(","))
    given = dict(pair.split(":", 1) for pair in (chosen.shapes or "").split(",") if pair)
    arrays = {}
    for value in session.get_inputs():
        is_static = all(isinstance(dim, int) for dim in value.shape)
        if is_static and value.name in given:
            fail(
                "Static model does not take explicit shapes since the shape of inference tensors "
                "will be determined by the model itself"
            )
        shape = given[value.name].split("x") if value.name in given else value.shape
        raw = np.fromfile(files[value.name], dtype="float32")
        if not is_static and value.name not in given:  # the real one makes open dimensions 1
            fail(
                f"Dynamic dimensions required for input: {value.name}, but no shapes were provided"
            )
        arrays[value.name] = raw.reshape([int(dim) for dim in shape])
    return arrays


def check_layers(model, pairs):
    """Refuse precisions of layers that are not there; the real one only warns."""
    import onnx

    nodes = {node.name for node in onnx.load_from_string(model).graph.node}
    for pair in pairs:
        if pair.rpartition(":")[0] not in nodes:
            fail("no layer " + pair)


def fail(message):
    log("E", message)
    print("&&&& FAILED TensorRT.trtexec [TensorRT v8502] # trtexec")
    sys.exit(1)


def log(level, message):
    print(f"[11/23/2026-10:00:00] [{level}] {message}", flush=True)


def run(call, chosen):
    """Rows of the trace, and their start relative to the clock's."""
    trace = []
    begin = time.perf_counter()
    measured = 0
    while True:
        start = time.perf_counter() - begin
        call()
        end = time.perf_counter() - begin
        is_warm = start * 1e3 >= chosen.warmUp
        measured += is_warm
        if is_warm or os.environ.get("TRTEXEC_EXPORTS_WARM_UP"):
            trace.append(row(start * 1e3, end * 1e3))
        if measured >= max(1, chosen.iterations) and end * 1e3 >= (
            chosen.warmUp + 1e3 * chosen.duration
        ):
            return trace


def row(start_ms, end_ms):
    """Copies of 0.1 ms before and after the computing."""
    return {
        "startInMs": start_ms - 0.1,
        "endInMs": start_ms,
        "startComputeMs": start_ms,
        "endComputeMs": end_ms,
        "startOutMs": end_ms,
        "endOutMs": end_ms + 0.1,
        "inMs": 0.1,
        "computeMs": end_ms - start_ms,
        "outMs": 0.1,
        "latencyMs": end_ms - start_ms + 0.2,
    }


def profile(session, runs):
    layers = [value.name for value in session.get_outputs()]
    rows = [{"count": runs}]
    for name in ["conv + relu", *layers]:
        rows.append(
            {
                "name": name,
                "timeMs": 0.5 * runs,
                "averageMs": 0.5,
                "medianMs": 0.5,
                "percentage": 50,
            }
        )
    return rows


def main():
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # " + " ".join(sys.argv))
    if "--help" in sys.argv:
        return
    chosen = parse(sys.argv[1:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        engine(chosen), options, providers=["CPUExecutionProvider"]
    )
    if chosen.layerPrecisions:
        check_layers(engine(chosen), chosen.layerPrecisions.split(","))
    arrays = inputs(session, chosen)
    outputs = session.run(None, arrays)
    log("I", "Starting inference")
    trace = run(lambda: session.run(None, arrays), chosen)
    log("I", f"Timing trace has {len(trace)} queries over 3.0 s")
    if chosen.exportTimes:
        chosen.exportTimes.write_text(json.dumps(trace))
    if chosen.exportProfile:
        chosen.exportProfile.write_text(json.dumps(profile(session, len(trace))))
    if chosen.exportOutput:
        rows = [
            {
                "name": value.name,
                "dimensions": "x".join(map(str, output.shape)),
                "values": [float(number) for number in output.ravel()],
            }
            for value, output in zip(session.get_outputs(), outputs)
        ]
        chosen.exportOutput.write_text(json.dumps(rows))
    print("&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec")


main()
