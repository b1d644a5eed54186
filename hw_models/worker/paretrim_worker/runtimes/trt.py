"""TensorRT through its command-line tool, which every Jetson has: trtexec.

The tool is started with a list of arguments, never through a shell, and what it exports as JSON is
read, never its log. Flags used exist from TensorRT 7.1 (JetPack 4.4) to 10. Latency is the GPU's
compute time (`computeMs`): without the copies, which differ between ways of calling the engine.

Exports (trtexec's own format):
    --exportTimes    a list with one object an inference: startComputeMs, computeMs, ...
    --exportProfile  a list: {"count": runs}, then {"name", "timeMs", "averageMs", ...} a layer
    --exportOutput   a list: {"name", "dimensions": "1x84x2100", "values": [...]} an output
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np

from paretrim_worker.errors import BadRequest, CannotRun
from paretrim_worker.model_inputs import Input, Output, summarize
from paretrim_worker.runtimes import Facts, LayerTime, LoadedModel, Options, Runtime, first_line
from paretrim_worker.timing import MAX_SAMPLES, Plan, Progress, Timing

JETPACK_PATH = "/usr/src/tensorrt/bin/trtexec"
WARM_UP_MS_PER_INFERENCE = 20.0
"""trtexec warms up for a time, not for a number of inferences: this long for each one asked."""

OUTPUT = "output.json"
STARTED = "Starting inference"  # in the log when the engine is loaded and the clock starts
PLAIN_NAME = re.compile(r"[\w./-]+", re.ASCII)
"""trtexec takes lists of NAME:FILE: a name with : or , would name files of its own."""

VERSION = re.compile(r"TensorRT[ .]v?(\d+)")


class Trtexec(Runtime):
    """Builds and times engines with trtexec."""

    def __init__(self, options: Options) -> None:
        tool = options.trtexec or shutil.which("trtexec") or JETPACK_PATH
        if not os.access(tool, os.X_OK):
            raise BadRequest("trtexec: no program at {}; give --trtexec PATH".format(tool))
        if options.processor not in ("auto", "tensorrt"):
            raise BadRequest("processor: trtexec has tensorrt, got {!r}".format(options.processor))
        self.tool = tool
        self.scratch = options.scratch
        self.facts = Facts(
            name="trtexec",
            version=_version(tool),
            processor="tensorrt",
            precisions=("fp32", "fp16", "int8"),
            profiles_layers=True,
        )

    def load(self, path: Path, precision: str, inputs: Sequence[Input]) -> "TrtexecModel":
        """See Runtime."""
        return TrtexecModel(self, path, precision, inputs)


class Run(NamedTuple):
    """One finished start of trtexec: when inference began, if the log told, and its log's end."""

    started_s: Optional[float]
    log: str


class TrtexecModel(LoadedModel):
    """An engine on disk; built once, loaded for each measurement."""

    def __init__(
        self, runtime: Trtexec, path: Path, precision: str, inputs: Sequence[Input]
    ) -> None:
        self._tool = runtime.tool
        key = "{}|{}|{}".format(path.name, precision, [entry.array.shape for entry in inputs])
        self._stem = runtime.scratch / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._engine = self._stem.with_suffix(".engine")
        self._files = [self._engine]
        self._shapes = _shape_flags(inputs)
        self._outputs: List[Output] = []
        try:
            self._inputs = self._input_flags(inputs)
            self._build(path, precision)
        except CannotRun:
            self.close()
            raise

    def time(self, plan: Plan, progress: Progress) -> Timing:
        """See LoadedModel."""
        warm_up_ms = plan.warm_up * WARM_UP_MS_PER_INFERENCE
        times = self._export("times.json")
        run = self._run(
            [
                *self._engine_flags(),
                "--warmUp={:.0f}".format(warm_up_ms),
                "--iterations={}".format(plan.repeat * plan.number),
                "--duration={:.0f}".format(np.ceil(plan.min_time_s)),
                "--exportTimes={}".format(times),
                "--exportOutput={}".format(self._export(OUTPUT)),
            ]
        )
        self._outputs = self._read_outputs()
        trace = _after_warm_up(_read(times), warm_up_ms)
        samples_ms = _samples(trace, plan.number)
        if len(samples_ms) < plan.repeat:
            raise CannotRun(
                "trtexec: expected at least {} samples, got {}".format(plan.repeat, len(samples_ms))
            )
        if run.started_s is None:  # the window is not known: no energy rather than a guess
            return Timing(samples_ms, 0.0, 0.0)
        start_s = run.started_s + trace[0]["startComputeMs"] / 1e3
        end_s = run.started_s + trace[-1]["endComputeMs"] / 1e3
        return Timing(samples_ms, start_s, end_s)

    def outputs(self) -> List[Output]:
        """What the latest run of the engine computed, building or timing."""
        return self._outputs

    def profile(self, runs: int) -> List[LayerTime]:
        """See LoadedModel."""
        export = self._export("profile.json")
        self._run(
            [
                *self._engine_flags(),
                "--iterations={}".format(runs),
                "--duration=0",
                "--warmUp=0",
                "--exportProfile={}".format(export),
            ]
        )
        return [
            LayerTime(str(row["name"]), "", float(row["averageMs"]))
            for row in _read(export)
            if "averageMs" in row
        ]

    def close(self) -> None:
        """Delete the engine and the exports."""
        for path in self._files:
            if path.exists():
                path.unlink()

    def _build(self, path: Path, precision: str) -> None:
        flags: List[str] = {"fp32": [], "fp16": ["--fp16"], "int8": ["--fp16", "--int8"]}[precision]
        self._run(
            [
                "--onnx={}".format(path),
                "--saveEngine={}".format(self._engine),
                *flags,
                *self._shapes,
                *self._inputs,
                "--iterations=1",
                "--duration=0",
                "--warmUp=0",
                "--exportOutput={}".format(self._export(OUTPUT)),
            ]
        )
        self._outputs = self._read_outputs()

    def _read_outputs(self) -> List[Output]:
        return summarize({row["name"]: _tensor(row) for row in _read(self._export(OUTPUT))})

    def _input_flags(self, inputs: Sequence[Input]) -> List[str]:
        pairs = []
        for index, entry in enumerate(inputs):
            if not PLAIN_NAME.fullmatch(entry.name):
                raise CannotRun(
                    "trtexec: input {!r}: expected letters, digits and ._/- only".format(entry.name)
                )
            path = self._export("input-{}.bin".format(index))
            path.write_bytes(entry.array.tobytes())
            pairs.append("{}:{}".format(entry.name, path))
        return ["--loadInputs={}".format(",".join(pairs))] if pairs else []

    def _engine_flags(self) -> List[str]:
        return ["--loadEngine={}".format(self._engine), *self._shapes, *self._inputs]

    def _export(self, name: str) -> Path:
        path = self._stem.with_suffix("." + name)
        if path not in self._files:
            self._files.append(path)
        return path

    def _run(self, flags: List[str]) -> Run:
        process = subprocess.Popen(
            [self._tool, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
        )
        started_s = None
        lines: List[str] = []
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if STARTED in line:
                    started_s = time.monotonic()
                lines = [*lines[-9:], line]
        if process.returncode != 0:
            raise CannotRun(
                "trtexec ended with {}: {}".format(process.returncode, first_line("".join(lines)))
            )
        return Run(started_s, "".join(lines))


def _shape_flags(inputs: Sequence[Input]) -> List[str]:
    """The shapes of open inputs; without them trtexec makes every open dimension 1.

    That holds for a loaded engine as well. For a model that has none open shapes are refused.
    """
    shapes = [
        "{}:{}".format(entry.name, "x".join(map(str, entry.array.shape)))
        for entry in inputs
        if entry.is_open
    ]
    return ["--shapes={}".format(",".join(shapes))] if shapes else []


def _version(tool: str) -> str:
    """The version that trtexec prints first: `TensorRT v8502`, `[TensorRT v100300]`."""
    result = subprocess.run(
        [tool, "--help"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=60,
    )
    found = VERSION.search(result.stdout)
    return found.group(1) if found else "unknown"


def _read(path: Path) -> List[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRun("trtexec: its export cannot be read: {}".format(error)) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CannotRun("trtexec: its export is not a list of objects")
    return rows


def _after_warm_up(trace: List[Any], warm_up_ms: float) -> List[Any]:
    """TensorRT 7 exports the warm-up too, later versions start after it; both count from zero."""
    try:
        return [row for row in trace if float(row["startComputeMs"]) >= warm_up_ms]
    except (KeyError, TypeError, ValueError):
        raise CannotRun("trtexec: its times lack startComputeMs") from None


def _samples(trace: List[Any], number: int) -> List[float]:
    """Mean compute time of each `number` inferences that follow one another."""
    try:
        times_ms = [float(row["computeMs"]) for row in trace]
    except (KeyError, TypeError, ValueError):
        raise CannotRun("trtexec: its times lack computeMs") from None
    whole = min(len(times_ms) // number, MAX_SAMPLES)
    return [sum(times_ms[index * number : (index + 1) * number]) / number for index in range(whole)]


def _tensor(row: Any) -> np.ndarray:
    try:
        dims = [int(part) for part in str(row["dimensions"]).split("x")]
        return np.asarray(row["values"], dtype=np.float64).reshape(dims)
    except (KeyError, ValueError) as error:
        raise CannotRun("trtexec: its output cannot be read: {}".format(error)) from None
