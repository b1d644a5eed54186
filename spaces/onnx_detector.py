"""Run an exported ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from hw_models.errors import InputError

FloatArray = npt.NDArray[np.float32]


class OnnxDetector:
    """An exported detector, run by onnxruntime on the CPU.

    Args:
        path: What `export_onnx` or `export_onnx_cpu` wrote.
        threads: Threads of one call.
        in_float: Compute in float what lies between a DequantizeLinear and the next
            QuantizeLinear, to the last digits what `export_onnx` promises. Otherwise onnxruntime
            fuses such parts into its integer kernels, whose sums saturate at 16 bits on a CPU
            without VNNI; `export_onnx_cpu` keeps clear of that, `export_onnx` does not.

    Raises:
        InputError: If the file cannot be loaded or was not written by `export_onnx`.
    """

    def __init__(self, path: Path, threads: int = 1, in_float: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.disable_quant_qdq", str(int(in_float)))
        try:
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.names = tuple(json.loads(metadata["names"]))
            self.imgsz = int(metadata["imgsz"])
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise InputError(
                f"The model {path} cannot be run: expected an ONNX file written by paretrim, got"
                f" {type(error).__name__}: {error}.",
                "Export it again.",
            ) from error

    def __call__(self, images: FloatArray) -> FloatArray:
        """Detect on images [1, 3, imgsz, imgsz] in 0..1; return [1, 4 + nc, A]."""
        return self.session.run(None, {"images": images})[0]
