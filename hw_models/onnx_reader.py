"""Read any ONNX file into a `Workload`, fused the way an inference engine fuses it.

Convolutions, Gemm and MatMul become `ConvShape`s with batch norm, bias and ReLU folded in; a
convolution that reads the blocks of a SpaceToDepth is the one with that stride; neighbouring
elementwise ops become one pass over memory; reshapes and constants cost nothing; what makes boxes
and scores of a head's maps is one `decode` op a map (see onnx_decoding.py). Convolutions between
QuantizeLinear/DequantizeLinear pairs are read as INT8. Ops that are not known are costed by the
bytes they move and named in a warning.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hw_models.errors import InputError
from hw_models.onnx_decoding import PRODUCTS, Decoding, find_decoding
from hw_models.onnx_shapes import GRIDS, Shape, load_with_shapes, real_inputs
from hw_models.workload import ConvShape, OpKind, OtherOp, Workload, with_siblings

_FREE = {
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Cast", "Shape",
    "Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear", "Range", "Size",
}  # fmt: skip
_RELU_LIKE = {"Relu", "Clip"}
_UNARY = {
    "LeakyRelu", "PRelu",
    "Sigmoid", "Tanh", "Softplus", "Mish", "Swish", "HardSwish", "HardSigmoid", "Elu", "Selu",
    "Erf", "Gelu", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Floor", "Ceil", "Round",
    "Sign", "Not", "BatchNormalization", "Celu", "ThresholdedRelu", "Softsign", "Sin", "Cos",
}  # fmt: skip
_BINARY = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where", "Equal", "Greater", "Less",
    "And", "Or", "Mod",
}  # fmt: skip
_POINTWISE = _RELU_LIKE | _UNARY | _BINARY
_MOVES: dict[str, OpKind] = {
    "MaxPool": "pool", "AveragePool": "pool", "GlobalAveragePool": "pool", "GlobalMaxPool": "pool",
    "ReduceMean": "pool", "ReduceMax": "pool", "ReduceSum": "pool", "ReduceMin": "pool",
    "LpPool": "pool", "LRN": "pool",
    "Resize": "resize", "Upsample": "resize",
    "Concat": "concat", "Split": "concat", "Slice": "concat",
    "Transpose": "copy", "Gather": "copy", "Pad": "copy", "Expand": "copy", "Tile": "copy",
    "DepthToSpace": "copy", "SpaceToDepth": "copy", "GatherElements": "copy",
    "ScatterND": "copy", "GatherND": "copy",
    "Softmax": "softmax", "LogSoftmax": "softmax", "LayerNormalization": "softmax",
    "InstanceNormalization": "softmax", "GroupNormalization": "softmax",
    "TopK": "softmax", "ArgMax": "softmax",
}  # fmt: skip
_SELECTIONS = {"TopK", "ArgMax", "Gather", "GatherElements", "GatherND", "ScatterND"}
"""What picks detections out of the decoded ones: no part of decoding any more."""
_DECODING = (_FREE | _POINTWISE | set(_MOVES)) - _SELECTIONS


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A network read from a file.

    Args:
        workload: Its layers.
        quantized: Whether any layer stands between quantise/dequantise pairs.
        warnings: What was not understood, one sentence each.
    """

    workload: Workload
    quantized: bool
    warnings: tuple[str, ...]


def read_onnx(
    path: str | Path, *, batch: int = 1, imgsz: tuple[int, int] | None = None, bits: int = 16
) -> OnnxNetwork:
    """Read an ONNX file.

    Args:
        path: The file.
        batch: Images at once, for a dynamic first dimension.
        imgsz: (rows, columns) for dynamic input sizes.
        bits: Bits of weights and activations of layers that are not quantised: 32, 16 or 8.

    Returns:
        The workload, whether it is quantised, and warnings.

    Raises:
        InputError: The file is missing, is not ONNX, keeps its data in other files, has shapes
            that cannot be inferred, or has dynamic shapes and `imgsz` is not given.
    """
    reader = _Reader(load_with_shapes(Path(path), batch, imgsz), bits)
    try:
        return reader.read()
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        # A file that parses but means nothing: attributes of the wrong kind, missing inputs.
        raise InputError(
            f"{path} is malformed ({type(error).__name__}: {error}).", "Export the model again."
        ) from error


@dataclass(slots=True)
class _Reader:
    model: Any
    bits: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    producer: dict[str, Any] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    rounded: Counter[str] = field(default_factory=Counter)
    blocks: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    uncosted: set[str] = field(default_factory=set)
    layers: list[ConvShape | OtherOp] = field(default_factory=list)
    read_by: dict[int, str] = field(default_factory=dict)
    batch: int = 1

    def read(self) -> OnnxNetwork:
        graph = self.model.graph
        self._index(graph)
        image = self._need(real_inputs(graph)[0].name)
        self.batch = max(1, image[0]) if image else 1
        decoding = find_decoding(graph, _DECODING, self.constants, self.shapes)
        groups = self._pointwise_groups(graph)
        done: set[int] = set()
        for index, node in enumerate(graph.node):
            if index in decoding.nodes or all(name in self.constants for name in node.output):
                continue
            if node.op_type in _POINTWISE:
                group = groups[id(node)]
                if id(group[-1]) == id(node) and id(group) not in done:
                    done.add(id(group))
                    self._pointwise(group)
            elif node.op_type in PRODUCTS:
                self.read_by[len(self.layers)] = self._origin(node.input[0])
                self.layers.append(self._product(node))
            elif node.op_type not in _FREE and node.output[0] not in self.blocks:
                self._move(node)
        self._decode(decoding)
        self._warn_unknown(graph)
        reads = [self.read_by.get(index, "") for index in range(len(self.layers))]
        layers = with_siblings(self.layers, reads)
        channels, rows, columns = (*image[1:4], 1, 1, 1)[:3]
        quantized = any(isinstance(x, ConvShape) and x.weight_bits <= 8 for x in self.layers)
        return OnnxNetwork(
            Workload(layers, self.batch, (channels, rows, columns)),
            quantized and self.bits > 8,
            tuple(self.warnings),
        )

    def _decode(self, decoding: Decoding) -> None:
        """Add one op for each size of the head's maps."""
        channels: dict[tuple[int, int], int] = defaultdict(int)
        for name in decoding.maps:
            count, rows, columns = self._image(name)
            channels[rows, columns] += count
        values = sum(self._elements(name) for name in decoding.results) // self.batch
        for rows, columns in sorted(channels, reverse=True):
            made = values // sum(map(math.prod, channels))
            self.layers.append(
                OtherOp(
                    f"decode{rows}x{columns}", "decode", channels[rows, columns], made,
                    rows, columns, rows, columns, self.bits,
                )
            )  # fmt: skip

    def _origin(self, name: str) -> str:
        """Return the tensor behind reshapes and quantise/dequantise pairs."""
        node = self.producer.get(name)
        while node is not None and node.op_type in _FREE and node.input:
            name = node.input[0]
            node = self.producer.get(name)
        return name

    def _unrounded(self, name: str) -> str:
        """Return the tensor behind quantise/dequantise pairs."""
        node = self.producer.get(name)
        while node is not None and node.op_type in GRIDS:
            name = node.input[0]
            node = self.producer.get(name)
        return name

    def _index(self, graph: Any) -> None:
        for value in [*graph.input, *graph.value_info, *graph.output]:
            tensor = value.type.tensor_type
            if tensor.HasField("shape"):
                self.shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
        for initializer in graph.initializer:
            self.shapes[initializer.name] = tuple(initializer.dims)
            self.constants.add(initializer.name)
        for node in graph.node:
            for name in node.output:
                self.producer[name] = node
            self.uses.update(set(node.input))
            if node.op_type == "QuantizeLinear":
                self.rounded[node.input[0]] += 1
            inputs = [name for name in node.input if name]
            if node.op_type in {"Shape", "Size"} or all(x in self.constants for x in inputs):
                self.constants.update(node.output)
            if node.op_type == "Conv" and _attributes(node).get("group", 1) == 1:
                source = self.producer.get(self._origin(node.input[0]))
                if source is not None and source.op_type == "SpaceToDepth":
                    self.blocks[source.output[0]] = _attributes(source)["blocksize"]

    def _pointwise_groups(self, graph: Any) -> dict[int, list[Any]]:
        """Group elementwise nodes that one kernel computes.

        A node joins the group of a producer whose result nobody else reads.
        """
        group_of: dict[int, list[Any]] = {}
        for node in graph.node:
            if node.op_type not in _POINTWISE or node.output[0] in self.constants:
                continue
            mine = [node]
            for name in node.input:
                source = self._unrounded(name)
                other = group_of.get(id(self.producer.get(source)))
                if other is None or other is mine or max(self.uses[name], self.uses[source]) > 1:
                    continue
                if self._same_size(source, node):
                    mine = other + mine
            for member in mine:
                group_of[id(member)] = mine
        return group_of

    def _same_size(self, name: str, node: Any) -> bool:
        return self._elements(name) == self._elements(node.output[0])

    def _pointwise(self, group: list[Any]) -> None:
        """Add one pass for a group, unless the convolution before it takes it along."""
        inside = {name for node in group for name in node.output}
        read = {
            self._unrounded(name)
            for node in group
            for name in node.input
            if name and name not in self.constants
        }
        outside = read - inside
        last = group[-1]
        kinds = {node.op_type for node in group}
        after_product = any(self._is_product(name) for name in outside)
        adds = sum(
            node.op_type in {"Add", "Sum"} and self._dynamic_inputs(node) > 1 for node in group
        )
        if adds:
            self._append(last, "add", [last.output[0]] * adds, last.output[0], suffix="/add")
        plain = _RELU_LIKE | {"BatchNormalization"} | ({"Add", "Sum"} if adds else set())
        scalar_only = all(
            node.op_type in plain or (node.op_type == "Add" and self._dynamic_inputs(node) < 2)
            for node in group
        )
        if after_product and scalar_only and kinds <= _POINTWISE:
            return
        main = max(sorted(outside), key=self._elements, default=last.input[0])
        sources = [main] if adds else sorted(outside)
        self._append(last, _activation_kind(kinds), sources, last.output[0])

    def _dynamic_inputs(self, node: Any) -> int:
        return sum(name not in self.constants and bool(name) for name in node.input)

    def _is_product(self, name: str) -> bool:
        node = self.producer.get(name)
        while node is not None and node.op_type in _FREE and node.input:
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type in PRODUCTS

    def _move(self, node: Any) -> None:
        kind: OpKind = _MOVES.get(node.op_type, "unknown")
        inputs = [name for name in node.input if name and name not in self.constants]
        if kind == "concat" and node.op_type == "Concat":
            self._append(node, kind, inputs, node.output[0])
            return
        for index, output in enumerate(name for name in node.output if name):
            # A slice or one part of a split reads only what it writes.
            source = [output] if kind == "concat" else inputs
            self._append(node, kind, source, output, suffix=f"/{index}" if index else "")

    def _append(
        self, node: Any, kind: OpKind, inputs: Iterable[str], output: str, suffix: str = ""
    ) -> None:
        # What comes behind a foreign op (suppression, mostly) has no shape that can be inferred.
        known = [name for name in inputs if self._has_shape(name)]
        if not (known or self._has_shape(output)):
            self.uncosted.add(node.op_type)
            return
        sources = [self._image(name) for name in known] or [(0, 1, 1)]
        rows, columns = max(sources, key=math.prod)[1:]
        elements = sum(math.prod(source) for source in sources)
        channels, out_h, out_w = self._image(output) if self._has_shape(output) else (0, 1, 1)
        self.layers.append(
            OtherOp(
                _name(node) + suffix, kind, -(-elements // (rows * columns)), channels,
                rows, columns, out_h, out_w, self._op_bits(output),
            )
        )  # fmt: skip

    def _op_bits(self, output: str) -> int:
        """Return the bits of an op's tensors: 8 if all that reads its output rounds it first."""
        rounded = self.rounded[output]
        return 8 if rounded and rounded == self.uses[output] else self.bits

    def _product(self, node: Any) -> ConvShape:
        conv = self._conv(node) if node.op_type.startswith("Conv") else self._matmul(node)
        return replace(conv, weight_bits=self._bits(node.input[1]), act_bits=self._act_bits(node))

    def _conv(self, node: Any) -> ConvShape:
        attributes = _attributes(node)
        weight = self._need(node.input[1])
        source, (out_channels, out_h, out_w) = (
            self._image(node.input[0]),
            self._image(node.output[0]),
        )
        kernel = (*weight[2:], 1, 1)[:2]
        stride = (*attributes.get("strides", ()), 1, 1)[:2]
        if node.op_type == "ConvTranspose":
            # Every input pixel is multiplied with the whole kernel.
            out_h, out_w, stride = source[1], source[2], (1, 1)
        groups = int(attributes.get("group", 1))
        # What reads blocks as channels is a larger kernel with a larger stride.
        block = self.blocks.get(self._origin(node.input[0]), 1)
        return ConvShape(
            _name(node), source[0] // block**2, out_channels,
            (kernel[0] * block, kernel[1] * block), (stride[0] * block, stride[1] * block),
            groups, out_h, out_w,
        )  # fmt: skip

    def _matmul(self, node: Any) -> ConvShape:
        left, right = self._need(node.input[0]), self._need(node.input[1])
        attributes = _attributes(node)
        transposed = node.op_type == "Gemm" and bool(attributes.get("transB", 0))
        inner, out = (right[-1], right[-2]) if transposed else (*right[-2:], 1)[:2]
        rows = math.prod(left) // max(1, inner)
        if self._weight_like(node.input[1]):
            return ConvShape(
                _name(node), inner, out, (1, 1), (1, 1), 1, max(1, rows // self.batch), 1
            )
        # A product of two activations (attention): one group for each head.
        heads = max(1, math.prod(right[:-2]) // self.batch)
        rows = max(1, rows // (self.batch * heads))
        return ConvShape(_name(node), inner * heads, out * heads, (1, 1), (1, 1), heads, rows, 1)

    def _weight_like(self, name: str) -> bool:
        return name in self.constants

    def _bits(self, name: str) -> int:
        """Return the bits a tensor is stored in: 8 behind a DequantizeLinear of 8-bit numbers."""
        node = self.producer.get(name)
        while node is not None and node.op_type in _FREE - {"DequantizeLinear"} and node.input:
            node = self.producer.get(node.input[0])
        return 8 if node is not None and node.op_type == "DequantizeLinear" else self.bits

    def _act_bits(self, node: Any) -> int:
        return self._bits(node.input[0])

    def _has_shape(self, name: str) -> bool:
        return name in self.shapes and all(dim > 0 for dim in self.shapes[name])

    def _need(self, name: str) -> Shape:
        if not self._has_shape(name):
            raise InputError(
                f"The shape of tensor {name!r} cannot be inferred from the ONNX file.",
                "Export with static shapes, or simplify the graph first.",
            )
        return self.shapes[name]

    def _elements(self, name: str) -> int:
        return math.prod(self.shapes.get(name, (0,)))

    def _image(self, name: str) -> tuple[int, int, int]:
        """Return (channels, rows, columns) of one image; other ranks are folded into these."""
        shape = self._need(name)
        if shape and shape[0] == self.batch:
            shape = shape[1:]
        elif self.batch > 1:
            shape = (max(1, math.prod(shape) // self.batch),)
        shape = (*shape, 1, 1, 1) if len(shape) < 3 else shape
        return shape[0], shape[1], math.prod(shape[2:])

    def _warn_unknown(self, graph: Any) -> None:
        known = _FREE | _POINTWISE | PRODUCTS | set(_MOVES)
        unknown: dict[str, int] = defaultdict(int)
        for node in graph.node:
            if node.op_type not in known and node.output[0] not in self.constants:
                unknown[node.op_type] += 1
        for op_type, count in sorted(unknown.items()):
            self.warnings.append(
                f"{count} x {op_type} is not modelled: costed by the bytes it moves."
            )
        if self.uncosted:
            self.warnings.append(
                f"Not costed, for want of shapes: {', '.join(sorted(self.uncosted))}."
            )


def _activation_kind(op_types: set[str]) -> OpKind:
    if "Mish" in op_types or {"Softplus", "Tanh", "Mul"} <= op_types:
        return "mish"
    return "leaky" if "LeakyRelu" in op_types else "activation"


def _name(node: Any) -> str:
    return str(node.name or node.output[0])


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
