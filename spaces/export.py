"""A compressed detector as an ONNX file; `spaces.onnx_detector` runs it.

The float network is exported with batch norms folded; then the graph is edited with onnx helpers:

* weights of few bits become int8 initialisers (int4 up to 4 bits) with a DequantizeLinear an
  output channel; 16-bit weights become float16 initialisers with a Cast: the file's size is what
  the bits say,
* inputs of few bits pass a QuantizeLinear/DequantizeLinear pair with zero point 0, one pair a
  tensor, shared by all convolutions that read it.

The file computes what `spaces.quantization.quantize` simulates. torch's TorchScript exporter is
used because the newer one needs packages (onnxscript) that nothing else here needs.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from ultralytics.nn.modules import DFL, Conv

from spaces.cpu_form import (
    BLOCK,
    PICTURE_WEIGHT_BITS,
    Grid,
    blocked_weight,
    calibrate_grids,
    rounded_tensors,
)
from spaces.model import Detector
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import (
    ActivationScales,
    input_scale,
    integer_weights,
    is_quantized,
    largest_integer,
)
from spaces.quantization.sharing import shared_inputs
from spaces.quantization.simulate import find_convolution, remove_input_rounding

OPSET = 17  # TensorRT 8.5, the last for Jetson Xavier, reads up to this one
INT4_OPSET = 21  # the first with 4-bit integers
INT4_IR_VERSION = 10
DEFAULT_BITS = (16, 16)
TINY_STEP = 1e-30  # keeps the bias of a row of zeros finite
FLOAT16_MAX = float(np.finfo(np.float16).max)

FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Graph:
    """An ONNX graph that is being edited: nodes in order, initialisers by name."""

    nodes: list[onnx.NodeProto]
    initializers: dict[str, TensorProto]
    rounded: dict[tuple[str, float, int], str] = field(default_factory=dict)

    def constant(self, name: str, values: npt.NDArray[Any] | np.generic) -> str:
        """Add an initialiser."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def insert(self, before: onnx.NodeProto, op: str, inputs: list[str], **attributes: Any) -> str:
        """Insert a node with one output in front of another; return the output's name."""
        output = f"{inputs[0]}_{op}"
        node = helper.make_node(op, inputs, [output], name=output, **attributes)
        self.nodes.insert(self.nodes.index(before), node)
        return output


def export_onnx(
    detector: Detector,
    imgsz: int,
    path: Path,
    bits: Mapping[str, tuple[int, int]] | None = None,
    scales: ActivationScales | None = None,
    smallest: int = 2,
) -> None:
    """Write a detector as an ONNX file with few-bit weights and activations.

    Input `images` [1, 3, imgsz, imgsz] in 0..1, output `output` [1, 4 + nc, A] as `Detector.net`.
    Names, input size and the writing version are in the file's metadata.

    Args:
        detector: Dense or sliced. Where `quantize` has been applied to it with the same bits, what
            it computes is written, for few-bit weights are on their own grid again.
        imgsz: Rows and columns of the input in pixels.
        path: The file to write.
        bits: (weight_bits, act_bits) by convolution: 2 to 8, 16 (weights stored as float16) or 32
            (as float32); 16 for a convolution that is not named.
        scales: Activation scales; needed where an activation has 8 bits or fewer.
        smallest: Bits that few-bit weights are stored with at least; 5 keeps 4-bit integers, which
            runtimes before 2024 cannot read, out of the file.

    Raises:
        InputError: If a name is no convolution, a width has no grid, or scales are missing.
    """
    bits = bits or {}
    model, graph, convolutions = _few_bit_weights(detector, imgsz, bits, smallest)
    for name, node in convolutions.items():
        _, act_bits = bits.get(name, DEFAULT_BITS)
        if is_quantized(act_bits):
            _round_input(graph, node, input_scale(scales, name, act_bits), act_bits)
    _finish(model, graph, detector.names, imgsz)
    path.write_bytes(model.SerializeToString())


def export_onnx_cpu(
    detector: Detector,
    imgsz: int,
    path: Path,
    images: Tensor,
    bits: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write a detector as an ONNX file that ONNX Runtime runs in integers on a CPU.

    As `export_onnx`, but with 8-bit activations as `spaces.cpu_form` says, and 7-bit weights where
    the picture is read. There are no integer kernels for fewer bits: weights of up to 4 bits take
    as much as 8-bit ones, activations of fewer than 8 bits get 8.

    Args:
        detector: See `export_onnx`.
        imgsz: See `export_onnx`.
        path: The file to write.
        images: [N, 3, imgsz, imgsz] in 0..1, to choose the ranges of activations on.
        bits: See `export_onnx`.

    Raises:
        InputError: If a name is no convolution, or a width has no grid.
    """
    bits = bits or {}
    model, graph, convolutions = _few_bit_weights(
        detector, imgsz, bits, smallest=5, of_picture=PICTURE_WEIGHT_BITS
    )
    integer = {
        node.output[0]: name
        for name, node in convolutions.items()
        if all(is_quantized(width) for width in bits.get(name, DEFAULT_BITS))
    }
    for name, node in convolutions.items():
        if node.output[0] in integer and node.input[0] == model.graph.input[0].name:
            _read_blocks(graph, node, f"{name}.weight_int8")
    _finish(model, graph, detector.names, imgsz)
    graph = _Graph(list(model.graph.node), {x.name: x for x in model.graph.initializer})
    tensors = rounded_tensors(graph.nodes, integer)
    grids = calibrate_grids(model, tensors, images.contiguous().numpy())
    for node in graph.nodes[:]:
        if node.output[0] in integer:
            _round_bias(graph, node, integer[node.output[0]], grids[node.input[0]].step)
    for tensor in tensors:
        _round_tensor(graph, tensor, grids[tensor])
    _finish(model, graph, detector.names, imgsz)
    path.write_bytes(model.SerializeToString())


def _few_bit_weights(
    detector: Detector,
    imgsz: int,
    bits: Mapping[str, tuple[int, int]],
    smallest: int,
    of_picture: int = 8,
) -> tuple[onnx.ModelProto, _Graph, dict[str, onnx.NodeProto]]:
    """Return a model with float activations, its graph, and its Conv nodes by module name.

    Few-bit weights are stored with at least `smallest` bits; those that the picture is multiplied
    with are rounded to `of_picture` bits at most.
    """
    for name in bits:
        find_convolution(detector.net, name)
    net = folded(detector.net)
    model = _exported(net, imgsz)
    graph = _Graph(list(model.graph.node), {x.name: x for x in model.graph.initializer})
    _own_constants(graph)
    nodes = [node for node in graph.nodes if node.op_type == "Conv"]
    convolutions = dict(zip(shared_inputs(net), nodes, strict=True))  # both in execution order
    for name, node in convolutions.items():
        conv, (weight_bits, _) = find_convolution(detector.net, name), bits.get(name, DEFAULT_BITS)
        if is_quantized(weight_bits) and node.input[0] == model.graph.input[0].name:
            weight_bits = min(weight_bits, of_picture)
        _store_weight(graph, node, name, conv, weight_bits, smallest)
    return model, graph, convolutions


def _read_blocks(graph: _Graph, node: onnx.NodeProto, weight: str) -> None:
    """Let a Conv node of stride 2 read blocks of its input as channels, if its kernel is even."""
    known = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    sizes = [*known["kernel_shape"], *known["pads"]]
    is_plain = known["dilations"] == [1, 1] and known["group"] == 1
    if known["strides"] != [BLOCK] * 2 or not is_plain or any(size % BLOCK for size in sizes):
        return
    blocks = graph.insert(node, "SpaceToDepth", [node.input[0]], blocksize=BLOCK)
    node.input[0] = blocks
    graph.constant(weight, blocked_weight(numpy_helper.to_array(graph.initializers[weight])))
    for entry in node.attribute:
        if entry.name in ("kernel_shape", "pads", "strides"):
            entry.ints[:] = [size // BLOCK for size in entry.ints]


def _own_constants(graph: _Graph) -> None:
    """Give each reader of equal constants, which torch's exporter stores once, one of its own."""
    for node in [node for node in graph.nodes if node.op_type == "Identity"]:
        if node.input[0] in graph.initializers:
            values = numpy_helper.to_array(graph.initializers[node.input[0]])
            graph.constant(node.output[0], values)
            graph.nodes.remove(node)


def folded(net: nn.Module) -> nn.Module:
    """Copy a network with every batch norm folded into the convolution before it.

    Hooks that round inputs are left out, and DFL is replaced by an equal that is faster.
    """
    net = copy.deepcopy(net).eval()
    remove_input_rounding(net)
    for module in net.modules():
        if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
        if isinstance(getattr(module, "dfl", None), DFL):
            module.dfl = _BoxSides(cast("DFL", module.dfl).c1)
    return net


class _BoxSides(nn.Module):
    """What ultralytics' DFL computes, with the bins last: softmax over another axis is slow."""

    positions: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(bins, dtype=torch.float32)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Turn the bins' logits [B, 4 * bins, A] into distances [B, 4, A]."""
        batch, channels, anchors = x.shape
        bins = len(self.positions)
        shares = x.view(batch, channels // bins, bins, anchors).transpose(2, 3).softmax(3)
        return (shares @ self.positions).squeeze(3)


def _exported(net: nn.Module, imgsz: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    images = torch.zeros(1, 3, imgsz, imgsz)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's age, and of sizes becoming constants
        net(images)  # a u-model computes its anchors once for each input size: not in the trace
        torch.onnx.export(
            net,
            (images,),
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a buffer
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output"],
        )
    return onnx.load_from_string(buffer.getvalue())


def _store_weight(
    graph: _Graph, node: onnx.NodeProto, name: str, conv: nn.Conv2d, weight_bits: int, smallest: int
) -> None:
    """Replace the folded float32 weight of a Conv node by one of fewer bits.

    Args:
        graph: The graph that holds the node.
        node: The convolution.
        name: Its module name.
        conv: Its module with the weight before folding, which chooses the grid.
        weight_bits: Bit width.
        smallest: Bit width it is stored with at least.
    """
    folded = numpy_helper.to_array(graph.initializers[node.input[1]])
    assert folded.shape == tuple(conv.weight.shape), name
    if is_quantized(weight_bits):
        integers, steps = folded_integers(conv, torch.tensor(folded), weight_bits)
        stored = _integer_constant(graph, f"{name}.weight", integers, max(weight_bits, smallest))
        scale = graph.constant(f"{name}.weight_scale", steps.numpy())
        node.input[1] = graph.insert(node, "DequantizeLinear", [stored, scale], axis=0)
    elif weight_bits < 32 and np.abs(folded).max(initial=0.0) <= FLOAT16_MAX:
        stored = graph.constant(f"{name}.weight_fp16", folded.astype(np.float16))
        node.input[1] = graph.insert(node, "Cast", [stored], to=TensorProto.FLOAT)


def folded_integers(conv: nn.Conv2d, folded_weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return a few-bit weight as whole numbers, and their steps with the batch norm folded in.

    Args:
        conv: With the weight before folding, which chooses the grid.
        folded_weight: [O, I, kh, kw], with the batch norm behind it folded in.
        bits: 2 to 8.

    Returns:
        Integers [O, I, kh, kw] as float32, and steps [O].
    """
    factors = _folding_factors(folded_weight, conv.weight.detach())
    weight = conv.weight.detach() * torch.where(factors < 0, -1.0, 1.0).view(-1, 1, 1, 1)
    steps = weight_scales(weight, bits)
    return integer_weights(weight, steps, bits), steps * factors.abs()


def _folding_factors(folded: Tensor, weight: Tensor) -> Tensor:
    """Return by what batch-norm folding multiplied each output channel [O]."""
    rows, folded_rows = weight.flatten(1), folded.flatten(1)
    energy = rows.square().sum(1)
    return torch.where(energy > 0, (rows * folded_rows).sum(1) / energy.clamp(min=1e-38), 1.0)


def _integer_constant(graph: _Graph, name: str, integers: Tensor, bits: int) -> str:
    values = integers.to(torch.int8).numpy()
    if bits > 4:
        return graph.constant(f"{name}_int8", values)
    name = f"{name}_int4"
    pairs = (
        np.append(values.flatten(), [0] * (values.size % 2)).astype(np.uint8).reshape(-1, 2) & 15
    )
    packed = (pairs[:, 0] | pairs[:, 1] << 4).tobytes()  # the first number in the low half
    graph.initializers[name] = helper.make_tensor(
        name, TensorProto.INT4, values.shape, packed, raw=True
    )
    return name


def _round_input(graph: _Graph, node: onnx.NodeProto, scale: float, bits: int) -> None:
    """Let a Conv node read its input rounded to the grid of `bits` bits with step `scale`."""
    source = node.input[0]
    key = (source, scale, bits)
    if key not in graph.rounded:
        prefix = f"{source}_{bits}bit"
        step = graph.constant(f"{prefix}_scale", np.float32(scale))
        zero = graph.constant(f"{prefix}_zero_point", np.int8(0))
        if bits < 8:  # an int8 grid would go on where that of fewer bits ends
            top = largest_integer(bits)
            low = graph.constant(f"{prefix}_low", np.float32(-(top + 1) * scale))
            high = graph.constant(f"{prefix}_high", np.float32(top * scale))
            source = graph.insert(node, "Clip", [source, low, high])
        integers = graph.insert(node, "QuantizeLinear", [source, step, zero])
        graph.rounded[key] = graph.insert(node, "DequantizeLinear", [integers, step, zero])
    node.input[0] = graph.rounded[key]


def _round_bias(graph: _Graph, node: onnx.NodeProto, name: str, input_step: float) -> None:
    """Give an integer convolution its bias in the unit of its sums, as int32."""
    if len(node.input) < 3:
        return
    steps = numpy_helper.to_array(graph.initializers[f"{name}.weight_scale"]) * input_step
    bias = numpy_helper.to_array(graph.initializers[node.input[2]])
    scale = graph.constant(f"{name}.bias_scale", steps.astype(np.float32))
    limit = 2**31 - 1
    integers = np.rint(bias / np.maximum(steps, TINY_STEP)).clip(-limit, limit).astype(np.int32)
    stored = graph.constant(f"{name}.bias_int32", integers)
    node.input[2] = graph.insert(node, "DequantizeLinear", [stored, scale], axis=0)


def _round_tensor(graph: _Graph, tensor: str, grid: Grid) -> None:
    """Let everything that reads a tensor read it rounded to an unsigned grid."""
    readers = [node for node in graph.nodes if tensor in node.input]
    step = graph.constant(f"{tensor}_scale", np.float32(grid.step))
    zero = graph.constant(f"{tensor}_zero_point", np.uint8(grid.zero))
    integers = graph.insert(readers[0], "QuantizeLinear", [tensor, step, zero])
    rounded = graph.insert(readers[0], "DequantizeLinear", [integers, step, zero])
    for node in readers:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = rounded


def _finish(model: onnx.ModelProto, graph: _Graph, names: Sequence[str], imgsz: int) -> None:
    """Put the edited graph back, without initialisers nobody reads, and add the metadata."""
    read = {name for node in graph.nodes for name in node.input}
    kept = [tensor for name, tensor in graph.initializers.items() if name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(kept)
    model.graph.name = "paretrim"
    if any(tensor.data_type == TensorProto.INT4 for tensor in kept):
        model.opset_import[0].version = INT4_OPSET
        model.ir_version = INT4_IR_VERSION
    writer = version("paretrim")
    metadata = {"names": json.dumps(list(names)), "imgsz": str(imgsz), "paretrim": writer}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
