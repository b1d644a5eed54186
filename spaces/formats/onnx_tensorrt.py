"""ONNX in the form that TensorRT fuses: symmetric Q/DQ pairs in front of few-bit convolutions.

The file's size is what the bits say: int8 and int4 weights, float16 elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from spaces.export import export_onnx
from spaces.formats.interface import Compressed, Format, Run
from spaces.formats.suppression import add_suppression
from spaces.onnx_detector import OnnxDetector

LEAF = "DequantizeLinear"


class OnnxTensorRT(Format):
    """See the module; run here by ONNX Runtime, which computes the same in float."""

    name = "onnx-tensorrt"
    file = "model.onnx"
    runtime = "onnxruntime"

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format."""
        path = folder / self.file
        export_onnx(model.detector, model.imgsz, path, model.bits, model.scales)
        if min_score is not None:
            suppress(path, min_score)
        return path

    def load(self, path: Path) -> Run:
        """See Format."""
        return OnnxDetector(path, in_float=True)

    def integer_convolutions(self, path: Path) -> int:
        """Count convolutions whose input and weight both come out of a DequantizeLinear.

        That is what TensorRT fuses to an integer kernel; it is not at hand here to be asked.
        """
        graph = onnx.load(path).graph
        dequantized = {node.output[0] for node in graph.node if node.op_type == LEAF}
        return sum(
            node.op_type == "Conv" and set(node.input[:2]) <= dequantized for node in graph.node
        )


def suppress(path: Path, min_score: float) -> None:
    """Put non-maximum suppression into a written file."""
    model = onnx.load(path)
    add_suppression(model, min_score)
    path.write_bytes(model.SerializeToString())
