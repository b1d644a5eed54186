"""ONNX in the form that ONNX Runtime's CPU kernels run in integers; see `spaces.cpu_form`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from spaces.export import export_onnx_cpu
from spaces.formats.interface import Compressed, Format, Run
from spaces.formats.onnx_tensorrt import suppress
from spaces.onnx_detector import OnnxDetector

INTEGER_OPS = {"QLinearConv", "ConvInteger"}


class OnnxCpu(Format):
    """See the module."""

    name = "onnx-cpu"
    file = "model.onnx"
    runtime = "onnxruntime"
    is_exact = False

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format."""
        path = folder / self.file
        export_onnx_cpu(model.detector, model.imgsz, path, model.images, model.bits)
        if min_score is not None:
            suppress(path, min_score)
        return path

    def load(self, path: Path) -> Run:
        """See Format."""
        return OnnxDetector(path)

    def integer_convolutions(self, path: Path) -> int:
        """Count integer convolutions in the graph that ONNX Runtime makes of the file."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Basic to extended rewriting is a matter of the graph; layouts differ between machines.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            nodes = onnx.load(optimized).graph.node
            return sum(node.op_type in INTEGER_OPS for node in nodes)
