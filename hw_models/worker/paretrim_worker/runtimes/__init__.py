"""Programs that execute ONNX models, behind one interface.

    ort.py      ONNX Runtime: CPU; CUDA and TensorRT where its build has them
    ov.py       OpenVINO: CPU
    trt.py      trtexec, the TensorRT tool of every Jetson

One conformance suite runs on all of them (tests/worker/test_runtimes.py). A runtime runs in the
measuring process only.
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from paretrim_worker.errors import BadRequest
from paretrim_worker.model_inputs import Input, Output
from paretrim_worker.timing import Plan, Progress, Timing

NAMES = ("onnxruntime", "openvino", "trtexec")


class LayerTime(NamedTuple):
    """Time of one layer in one inference."""

    name: str
    kind: str
    mean_ms: float


class Facts(NamedTuple):
    """What a runtime is.

    Attributes:
        name: One of NAMES.
        version: Its own.
        processor: "cpu", "cuda" or "tensorrt".
        precisions: Of "fp32", "fp16", "int8": which kernels it may use. "int8" takes models with
            QuantizeLinear/DequantizeLinear pairs.
        profiles_layers: Whether `LoadedModel.profile` gives anything.
    """

    name: str
    version: str
    processor: str
    precisions: Tuple[str, ...]
    profiles_layers: bool


class LoadedModel:
    """A model that is ready to run on its inputs."""

    def time(self, plan: Plan, progress: Progress) -> Timing:
        """Time inferences as the plan says."""
        raise NotImplementedError

    def outputs(self) -> List[Output]:
        """Run once; say what came out."""
        raise NotImplementedError

    def profile(self, runs: int) -> List[LayerTime]:
        """Mean time of every layer over some inferences."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the model holds."""


class Runtime:
    """Loads models."""

    facts: Facts

    def load(self, path: Path, precision: str, inputs: Sequence[Input]) -> LoadedModel:
        """Make a checked model ready.

        Args:
            path: The ONNX file.
            precision: One of `facts.precisions`.
            inputs: What it will run on.

        Raises:
            CannotRun: If the runtime refuses the model.
        """
        raise NotImplementedError


class Options(NamedTuple):
    """What the worker's owner chose for its runtime.

    Attributes:
        threads: Threads of CPU runtimes.
        processor: "auto" takes the fastest that is present.
        scratch: A private folder for files.
        trtexec: The tool's path; empty looks where JetPack puts it.
    """

    threads: int
    processor: str
    scratch: Path
    trtexec: str = ""


def make_runtime(name: str, options: Options) -> Runtime:
    """Make a runtime by its name; only its own library is imported.

    Raises:
        BadRequest: If the name is none of NAMES, or the library or tool is absent.
    """
    if name not in NAMES:
        raise BadRequest("runtime: expected one of {}, got {!r}".format(", ".join(NAMES), name))
    try:
        return _make(name, options)
    except ImportError as error:
        raise BadRequest(
            "runtime {}: {}; install it in the worker's environment".format(name, error)
        ) from None


def _make(name: str, options: Options) -> Runtime:
    if name == "onnxruntime":
        from paretrim_worker.runtimes.ort import OnnxRuntime

        return OnnxRuntime(options)
    if name == "openvino":
        from paretrim_worker.runtimes.ov import OpenVino

        return OpenVino(options)
    from paretrim_worker.runtimes.trt import Trtexec

    return Trtexec(options)


def first_line(error: Any) -> str:
    """The telling part of a foreign error."""
    return " ".join(str(error).split())[:500]


def mean_by_layer(events: Sequence[Tuple[str, str, float]], runs: int) -> List[LayerTime]:
    """Sum (name, kind, ms) events by layer over some runs into the mean of one run."""
    totals: Dict[Tuple[str, str], float] = {}
    for name, kind, time_ms in events:
        totals[name, kind] = totals.get((name, kind), 0.0) + time_ms
    return [LayerTime(name, kind, total / runs) for (name, kind), total in totals.items()]
