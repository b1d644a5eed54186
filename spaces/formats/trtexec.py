"""A bundle for a board with TensorRT: the ONNX file, flags for trtexec, and a script.

    model.onnx     int8 only where TensorRT computes with it; all other weights plain float32
    flags.txt      one flag a line; no calibration is needed, the scales are in the file
    build.sh       builds model.engine on the board and times it

trtexec takes precisions by layer from TensorRT 8.2 on (JetPack 4.6); a layer's name is that of its
ONNX node. With Q/DQ pairs in the graph TensorRT decides about int8 by them, so that only the other
convolutions get a precision: fp16, or fp32 where the search left 32 bits.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import onnx

from hw_models.errors import InputError
from spaces.export import export_onnx, folded
from spaces.formats.interface import Compressed, Format, Run
from spaces.formats.onnx_tensorrt import OnnxTensorRT, suppress
from spaces.onnx_detector import OnnxDetector
from spaces.quantization.sharing import shared_inputs

SMALLEST_BITS = 5  # trtexec of JetPack 4 and 5 reads no 4-bit integers
PLAIN = (32, 32)
HALF = (16, 16)
SCRIPT = """#!/bin/sh
# Builds model.engine from model.onnx on the board, then times it. Nothing else is needed.
# TRTEXEC names the program where it is not that of JetPack.
set -e
cd "$(dirname "$0")"
TRTEXEC=${{TRTEXEC:-/usr/src/tensorrt/bin/trtexec}}
[ -x "$TRTEXEC" ] || {{ echo "no trtexec at $TRTEXEC: set TRTEXEC to its path" >&2; exit 2; }}
"$TRTEXEC" --onnx=model.onnx --saveEngine=model.engine \\
    {flags} \\
    --exportTimes=times.json "$@"
echo "built $(pwd)/model.engine; times are in times.json"
"""


class Trtexec(Format):
    """See the module. Run here by ONNX Runtime; a board builds the engine."""

    name = "trtexec"
    file = "model.onnx"
    runtime = "onnxruntime"

    def write(self, model: Compressed, folder: Path, min_score: float | None = None) -> Path:
        """See Format."""
        path = folder / self.file
        names = list(shared_inputs(folded(model.detector.net)))
        executed = {name: model.bits[name] for name in model.integer_layers}
        bits = dict.fromkeys(names, PLAIN) | executed
        export_onnx(model.detector, model.imgsz, path, bits, model.scales, SMALLEST_BITS)
        if min_score is not None:
            suppress(path, min_score)
        flags = build_flags(_precisions(onnx.load(path), names, model), bool(executed))
        (folder / "flags.txt").write_text("".join(f"{flag}\n" for flag in flags))
        script = folder / "build.sh"
        quoted = " \\\n    ".join(shlex.quote(flag) for flag in flags)
        script.write_text(SCRIPT.format(flags=quoted))
        script.chmod(0o755)
        return path

    def load(self, path: Path) -> Run:
        """See Format.

        Raises:
            InputError: The bundle lacks its flags or its script.
        """
        flags = path.with_name("flags.txt")
        script = path.with_name("build.sh")
        if not flags.is_file() or not script.is_file():
            raise InputError(
                f"{path.parent} is no trtexec bundle: expected flags.txt and build.sh beside"
                f" {path.name}.",
                "Export it again.",
            )
        return OnnxDetector(path, in_float=True)

    def integer_convolutions(self, path: Path) -> int:
        """See OnnxTensorRT."""
        return OnnxTensorRT().integer_convolutions(path)


def _precisions(graph: onnx.ModelProto, names: list[str], model: Compressed) -> dict[str, str]:
    """Return the precision of each node that is a convolution of 16 or 32 bits.

    Args:
        graph: The file.
        names: Its convolutions in execution order, as the file has them.
        model: What was written.
    """
    nodes = [node.name for node in graph.graph.node if node.op_type == "Conv"]
    widths = {name: max(model.bits.get(name, HALF)) for name in names}
    return {
        node: "fp32" if widths[name] >= 32 else "fp16"
        for node, name in zip(nodes, names, strict=True)
        if name not in model.integer_layers
    }


def build_flags(precisions: Mapping[str, str], has_integers: bool) -> list[str]:
    """Return what trtexec is to build with.

    Args:
        precisions: fp16 or fp32 by node.
        has_integers: Whether the graph has Q/DQ pairs.
    """
    flags = ["--fp16", "--int8"] if has_integers else ["--fp16"]
    if precisions:
        listed = ",".join(f"{name}:{precision}" for name, precision in precisions.items())
        flags += ["--precisionConstraints=obey", f"--layerPrecisions={listed}"]
    return flags
