"""OpenVINO on the CPU."""

from pathlib import Path
from typing import Any, List, Sequence

import openvino  # type: ignore[import-untyped]

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


class OpenVino(Runtime):
    """Compiles models for the CPU, one stream, the threads asked for."""

    def __init__(self, options: Options) -> None:
        if options.processor not in ("auto", "cpu"):
            raise BadRequest("processor: openvino has cpu here, got {!r}".format(options.processor))
        self._threads = options.threads
        self._core = openvino.Core()
        self.facts = Facts(
            name="openvino",
            version=openvino.get_version().split("-")[0],
            processor="cpu",
            precisions=("fp32", "int8"),
            profiles_layers=True,
        )

    def load(self, path: Path, precision: str, inputs: Sequence[Input]) -> "OpenVinoModel":
        """See Runtime."""
        return OpenVinoModel(self, path, inputs)

    def request(self, path: Path, inputs: Sequence[Input], profile: bool) -> Any:
        """Compile a file; return an inference request whose inputs are set."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self._threads),
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 would be another precision unasked
            "PERF_COUNT": "YES" if profile else "NO",
        }
        try:
            model = self._core.read_model(path.read_bytes(), b"")
            shapes = {entry.name: list(entry.array.shape) for entry in inputs if entry.is_open}
            if shapes:
                model.reshape(shapes)
            request = self._core.compile_model(model, "CPU", settings).create_infer_request()
            for name, array in feeds(inputs).items():
                request.set_tensor(name, openvino.Tensor(array))
        except Exception as error:  # openvino raises RuntimeError and its own
            raise CannotRun("openvino: {}".format(first_line(error))) from None
        return request


class OpenVinoModel(LoadedModel):
    """A compiled model and its request."""

    def __init__(self, runtime: OpenVino, path: Path, inputs: Sequence[Input]) -> None:
        self._runtime = runtime
        self._path = path
        self._inputs = inputs
        self._request = runtime.request(path, inputs, profile=False)

    def time(self, plan: Plan, progress: Progress) -> Timing:
        """See LoadedModel."""
        try:
            return time_calls(self._request.infer, plan, progress)
        except RuntimeError as error:
            raise CannotRun("openvino: {}".format(first_line(error))) from None

    def outputs(self) -> List[Output]:
        """See LoadedModel."""
        try:
            self._request.infer()
        except RuntimeError as error:
            raise CannotRun("openvino: {}".format(first_line(error))) from None
        return summarize(
            {port.any_name: tensor.data for port, tensor in zip(self._ports(), self._tensors())}
        )

    def profile(self, runs: int) -> List[LayerTime]:
        """See LoadedModel."""
        request = self._runtime.request(self._path, self._inputs, profile=True)
        events = []
        for _ in range(runs):
            request.infer()
            events += [
                (layer.node_name, layer.node_type, layer.real_time.total_seconds() * 1e3)
                for layer in request.profiling_info
                if "NOT_RUN" not in str(layer.status) and "OPTIMIZED_OUT" not in str(layer.status)
            ]
        return mean_by_layer(events, runs)

    def _ports(self) -> Any:
        return self._request.model_outputs

    def _tensors(self) -> Any:
        return self._request.output_tensors
