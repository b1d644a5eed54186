"""OpenVINO's own files: model.xml (the graph) and model.bin (the weights), for its CPU runtime."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.errors import InputError
from spaces.formats.interface import Compressed, Format, Run
from spaces.formats.onnx_cpu import OnnxCpu

SETTINGS = {
    "INFERENCE_NUM_THREADS": "1",
    "NUM_STREAMS": "1",
    "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 would be another precision unasked
}
INTEGER_TYPES = {"i8", "u8"}


class OpenVino(Format):
    """Converted from the integer form for CPUs, whose grids OpenVINO's int8 kernels take, too."""

    name = "openvino"
    file = "model.xml"
    runtime = "openvino"
    is_exact = False

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format.

        Raises:
            InputError: OpenVINO is not installed.
        """
        openvino = _openvino()
        with tempfile.TemporaryDirectory() as temporary:
            source = OnnxCpu().write(model, Path(temporary), min_score)
            converted = openvino.Core().read_model(source.read_bytes(), b"")
        path = folder / self.file
        # float16 weights stay; others are not rounded once more
        openvino.save_model(converted, path, compress_to_fp16=False)
        return path

    def load(self, path: Path) -> Run:
        """See Format."""
        compiled = _compiled(path)
        return lambda image: np.asarray(compiled(image)[0])

    def integer_convolutions(self, path: Path) -> int:
        """Count convolutions that the compiled model computes with 8-bit kernels."""
        nodes = _compiled(path).get_runtime_model().get_ops()
        infos = [{key: any_.value for key, any_ in node.get_rt_info().items()} for node in nodes]
        return sum(
            info.get("layerType") == "Convolution" and info.get("runtimePrecision") in INTEGER_TYPES
            for info in infos
        )

    def size_bytes(self, path: Path) -> int:
        """See Format."""
        return path.stat().st_size + path.with_suffix(".bin").stat().st_size


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise InputError(
            "--format openvino needs OpenVINO, which is not installed.", "pip install openvino"
        ) from error


def _compiled(path: Path) -> Any:
    openvino = _openvino()
    try:
        return openvino.Core().compile_model(path, "CPU", SETTINGS)
    except RuntimeError as error:
        raise InputError(
            f"The model {path} cannot be run by OpenVINO: {str(error).splitlines()[0]}.",
            "Export it again.",
        ) from error
