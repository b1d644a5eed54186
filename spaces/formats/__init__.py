"""Files that a compressed detector is delivered as. One format a module, behind one interface.

interface.py      what is written, and what a format must do
onnx_tensorrt.py  ONNX as TensorRT wants it: symmetric, zero point 0, rounded inputs
onnx_cpu.py       ONNX as ONNX Runtime's CPU kernels run it fastest: unsigned, integers throughout
openvino_ir.py    OpenVINO's model.xml and model.bin
trtexec.py        ONNX, flags and a script for a board with TensorRT
packed.py         for storage: weights in as many bits as they have, Huffman-coded
shared.py         for storage: weights that share few values (Deep Compression), Huffman-coded
suppression.py    non-maximum suppression inside a graph
storage.py        what both formats for storage share
coding.py         whole numbers as bytes
"""

from __future__ import annotations

from spaces.formats.interface import Format
from spaces.formats.onnx_cpu import OnnxCpu
from spaces.formats.onnx_tensorrt import OnnxTensorRT
from spaces.formats.openvino_ir import OpenVino
from spaces.formats.packed import Packed
from spaces.formats.shared import Shared
from spaces.formats.trtexec import Trtexec

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (OnnxTensorRT(), OnnxCpu(), OpenVino(), Trtexec(), Packed(), Shared())
}
"""Every format by name."""
