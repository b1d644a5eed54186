"""ONNX Runtime."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, List, Sequence

import onnxruntime

from paretrim_worker.errors import BadRequest, CannotRun
from paretrim_worker.model_inputs import Input, Output, feeds, summarize
from paretrim_worker.runtimes import (
    Facts,
    LayerTime,
    LoadedModel,
    Options,
    Runtime,
    first_line,
    mean_by_layer,
)
from paretrim_worker.timing import Plan, Progress, Timing, time_calls

# Fastest first. FP16 kernels are TensorRT's choice; the other providers run a file as it is.
PROVIDERS = {
    "tensorrt": ("TensorrtExecutionProvider", ("fp32", "fp16", "int8")),
    "cuda": ("CUDAExecutionProvider", ("fp32", "int8")),
    "cpu": ("CPUExecutionProvider", ("fp32", "int8")),
}
ERRORS_ONLY = 3
TF32_OPTION_SINCE = (1, 18)


def providers(processor: str, precision: str, engines: Path) -> List[Any]:
    """The providers of a session, the one asked for first, with their options.

    Args:
        processor: A key of PROVIDERS.
        precision: "fp32", "fp16" or "int8".
        engines: The folder where TensorRT keeps what it builds.
    """
    name, _ = PROVIDERS[processor]
    if processor == "cpu":
        return [name]
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    # Rounded to 10 bits of mantissa, fp32 would be another precision unasked.
    full = {"use_tf32": 0} if version >= TF32_OPTION_SINCE else {}
    cuda = (PROVIDERS["cuda"][0], full)
    if processor == "cuda":
        return [cuda]
    reduced = {
        "trt_fp16_enable": precision != "fp32",
        "trt_int8_enable": precision == "int8",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engines),
    }
    return [(name, reduced), cuda]


class OnnxRuntime(Runtime):
    """Runs models with one execution provider of ONNX Runtime."""

    def __init__(self, options: Options) -> None:
        onnxruntime.disable_telemetry_events()
        present = onnxruntime.get_available_providers()
        usable = [name for name, (provider, _) in PROVIDERS.items() if provider in present]
        processor = usable[0] if options.processor == "auto" else options.processor
        if processor not in usable:
            raise BadRequest(
                "processor: this onnxruntime has {}, got {!r}".format(", ".join(usable), processor)
            )
        self._options = options
        self.scratch = options.scratch
        self.facts = Facts(
            name="onnxruntime",
            version=onnxruntime.__version__,
            processor=processor,
            precisions=PROVIDERS[processor][1],
            profiles_layers=True,
        )

    def load(self, path: Path, precision: str, inputs: Sequence[Input]) -> "OrtModel":
        """See Runtime."""
        return OrtModel(self, path, precision, inputs)

    def session(self, path: Path, precision: str, engines: Path, profile: bool) -> Any:
        """Make a session of a file.

        Args:
            path: The file.
            precision: One of `facts.precisions`.
            engines: The folder where TensorRT keeps what it builds.
            profile: Whether the session notes the time of each node.
        """
        wanted = onnxruntime.SessionOptions()
        wanted.intra_op_num_threads = self._options.threads
        wanted.inter_op_num_threads = 1
        wanted.log_severity_level = ERRORS_ONLY
        if profile:
            wanted.enable_profiling = True
            wanted.profile_file_prefix = str(self.scratch / "profile")
        try:
            # From bytes: a path would let the file name others beside it.
            session = onnxruntime.InferenceSession(
                path.read_bytes(),
                wanted,
                providers=providers(self.facts.processor, precision, engines),
            )
        except Exception as error:  # onnxruntime has no common base class of its errors
            raise CannotRun("onnxruntime: {}".format(first_line(error))) from None
        self._check_provider(session)
        return session

    def _check_provider(self, session: Any) -> None:
        """Onnxruntime falls back to the CPU without an error: that would be another device."""
        provider, _ = PROVIDERS[self.facts.processor]
        if session.get_providers()[0] != provider:
            raise CannotRun(
                "onnxruntime: {} could not start, it fell back to {}".format(
                    provider, session.get_providers()[0]
                )
            )


class OrtModel(LoadedModel):
    """A session and what it runs on; on a GPU the tensors stay there."""

    def __init__(
        self, runtime: OnnxRuntime, path: Path, precision: str, inputs: Sequence[Input]
    ) -> None:
        self._runtime = runtime
        self._path = path
        self._precision = precision
        self._inputs = inputs
        self._engines = Path(tempfile.mkdtemp(prefix="engines-", dir=str(runtime.scratch)))
        try:
            self._session = runtime.session(path, precision, self._engines, profile=False)
            self._call = self._bind(self._session)
        except Exception:
            self.close()
            raise

    def time(self, plan: Plan, progress: Progress) -> Timing:
        """See LoadedModel."""
        try:
            return time_calls(self._call, plan, progress)
        except Exception as error:
            raise CannotRun("onnxruntime: {}".format(first_line(error))) from None

    def outputs(self) -> List[Output]:
        """See LoadedModel."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            arrays = self._session.run(None, feeds(self._inputs))
        except Exception as error:
            raise CannotRun("onnxruntime: {}".format(first_line(error))) from None
        return summarize(dict(zip(names, arrays)))

    def profile(self, runs: int) -> List[LayerTime]:
        """See LoadedModel."""
        session = self._runtime.session(self._path, self._precision, self._engines, profile=True)
        arrays = feeds(self._inputs)
        try:
            for _ in range(runs):
                session.run(None, arrays)
        except Exception as error:
            raise CannotRun("onnxruntime: {}".format(first_line(error))) from None
        finally:
            trace = Path(session.end_profiling())
            events = json.loads(trace.read_text(encoding="utf-8"))
            trace.unlink()
        return mean_by_layer(
            [
                (
                    event["name"][: -len("_kernel_time")],
                    str(event["args"].get("op_name", "")),
                    event["dur"] / 1e3,
                )
                for event in events
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
            ],
            runs,
        )

    def close(self) -> None:
        """Delete the engines."""
        shutil.rmtree(str(self._engines), ignore_errors=True)

    def _bind(self, session: Any) -> Any:
        if self._runtime.facts.processor == "cpu":
            arrays = feeds(self._inputs)
            return lambda: session.run(None, arrays)
        binding = session.io_binding()
        for entry in self._inputs:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(entry.array, "cuda", 0)
            binding.bind_ortvalue_input(entry.name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda")

        def call() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call
