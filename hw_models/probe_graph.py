"""A notation for small networks that makes both an ONNX file and what a cost model is asked of it.

The layers are listed as `spaces.trace` lists those of a model: a convolution with its activation as
a pass of its own, a concatenation, one `decode` op for each output map. A few-bit convolution is
written in the form that CPU runtimes execute in INT8, which `spaces.export.export_onnx_cpu` writes:
uint8 activations with a Q/DQ pair before *and* after the convolution and behind all that only reads
rounded maps (SiLU, concatenation, pooling, ...), int8 weights for each output channel. Without the
pair behind it ONNX Runtime computes in FP32, and with int8 activations on x86 it takes twice the
time; without those further on every map is converted back and forth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hw_models.workload import (
    ConvShape,
    OpKind,
    OtherOp,
    Workload,
    conversion,
    is_integer,
    with_siblings,
)

BASELINE_BITS = 32
OPSET, IR_VERSION = 17, 8
REG_MAX = 16
"""Bins of each side of a box in a YOLOv5u head (distribution focal loss, arXiv 2006.04388)."""
_STEPS = (0.04, 0.06)
"""Range of the steps of the 8-bit grids; times depend on no more than that they differ."""


@dataclass(frozen=True, slots=True)
class Map:
    """A tensor of one image.

    Args:
        name: In the graph.
        channels: Channels.
        rows: Rows, as many as columns.
        steps: Layers it is a result of, back to the convolutions that wrote it.
    """

    name: str
    channels: int
    rows: int
    steps: frozenset[int] = frozenset()


class ProbeGraph:
    """Collects a network while it is written down.

    Args:
        channels: Of the input.
        rows: Of the input, as many as columns.
        int8_share: Probability of a convolution to be quantised, where it may be.
        seed: Of that choice and of the weights.
    """

    def __init__(self, channels: int, rows: int, int8_share: float = 0.0, seed: int = 0) -> None:
        self.image = Map("images", channels, rows)
        self._share = int8_share
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self._convs: list[tuple[str, tuple[int, int, int], bool]] = []
        self._constants: dict[str, Any] = {}
        self._layers: list[ConvShape | OtherOp] = []
        self._sources: list[str] = []
        self._readers: list[set[int]] = []
        self._behind: list[frozenset[int]] = []
        self._rounded: dict[str, str] = {}

    def conv(
        self, x: Map, channels: int, kernel: int = 1, stride: int = 1, *, plain: bool = False
    ) -> Map:
        """Convolve, padded to ceil(rows / stride), with SiLU; `plain` is a head's last layer.

        A plain convolution has no activation and is never quantised.
        """
        number = len(self._layers)
        int8 = not plain and self._random.random() < self._share
        bits = 8 if int8 else BASELINE_BITS
        rows = -(-x.rows // stride)
        name = f"conv{number}"
        for step in x.steps:
            self._readers[step].add(number)
        self._note(
            ConvShape(
                name, x.channels, channels, (kernel, kernel), (stride, stride), 1, rows, rows,
                bits, bits,
            ),
            x.name,
        )  # fmt: skip
        pad = (kernel - 1) // 2 if kernel % 2 else (kernel - stride) // 2
        source, inside = x.name, x.channels
        if int8 and x.name == self.image.name and stride == 2 and not kernel % 2 and not pad % 2:
            # as integer files read a picture, see `spaces.cpu_form`
            source = self._node("SpaceToDepth", [source], f"{source}.blocks", blocksize=2)
            inside, kernel, stride, pad = 4 * inside, kernel // 2, 1, pad // 2
        self._convs.append((name, (channels, inside, kernel), int8))
        inputs = [self._round(source) if int8 else source, f"{name}.weight", f"{name}.bias"]
        self._node("Conv", inputs, name, pads=[pad] * 4, strides=[stride] * 2)
        result = Map(self._round(name) if int8 else name, channels, rows, frozenset({number}))
        return result if plain else self._silu(result)

    def _round(self, tensor: str, like: str = "") -> str:
        """Pass a tensor through a Q/DQ pair, one for all that read it, on the grid of another."""
        if tensor in self._rounded.values():
            return tensor
        if tensor not in self._rounded:
            step = f"{like or tensor}.step"
            if step not in self._constants:
                self._constant(step, np.float32(self._random.uniform(*_STEPS)))
            grid = [step, self._constant("zero", np.uint8(128))]
            self._node("QuantizeLinear", [tensor, *grid], f"{tensor}.q")
            rounded = self._node("DequantizeLinear", [f"{tensor}.q", *grid], f"{tensor}.dq")
            self._rounded[tensor] = rounded
            self._constants[f"{rounded}.step"] = self._constants[step]
        return self._rounded[tensor]

    def _between(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node whose output is rounded if all that it reads is."""
        self._node(op, inputs, output, **attributes)
        read = [name for name in inputs if name and name not in self._constants]
        if not all(name in self._rounded.values() for name in read):
            return output
        return self._round(output, like=read[0] if op in ("MaxPool", "Resize") else "")

    def _silu(self, x: Map) -> Map:
        gate = self._between("Sigmoid", [x.name], f"{x.name}.sigmoid")
        name = self._between("Mul", [x.name, gate], f"{x.name}.silu")
        return self._op("activation", [x], replace(x, name=name))

    def add(self, x: Map, y: Map) -> Map:
        """Add two maps; as runtimes add while they write the one, only the other is read."""
        name = self._between("Add", [x.name, y.name], f"add{len(self._layers)}")
        return self._op("add", [x], replace(x, name=name, steps=x.steps | y.steps))

    def concat(self, *maps: Map) -> Map:
        """Join channels."""
        name = self._between("Concat", [x.name for x in maps], f"cat{len(self._layers)}", axis=1)
        steps = frozenset[int]().union(*(x.steps for x in maps))
        joined = Map(name, sum(x.channels for x in maps), maps[0].rows, steps)
        return self._op("concat", maps, joined)

    def pool(self, x: Map) -> Map:
        """Take the maximum of 5x5 neighbours."""
        name = self._between(
            "MaxPool", [x.name], f"pool{len(self._layers)}", kernel_shape=[5, 5], pads=[2] * 4
        )
        return self._op("pool", [x], replace(x, name=name))

    def upsample(self, x: Map) -> Map:
        """Double the rows and columns, each pixel repeated."""
        scales = self._constant("twice", np.asarray([1, 1, 2, 2], np.float32))
        name = self._between(
            "Resize", [x.name, "", scales], f"up{len(self._layers)}", mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        return self._op("resize", [x], replace(x, name=name, rows=2 * x.rows))

    def decode(self, levels: Sequence[tuple[Map, Map]], classes: int) -> str:
        """Turn (boxes, scores) of each level into [1, 4 + classes, A] as a YOLOv5u does.

        Returns:
            The output's name.
        """
        flat = []
        for boxes, scores in levels:
            joined = Map("", boxes.channels + classes, boxes.rows, boxes.steps | scores.steps)
            name = self._node("Concat", [boxes.name, scores.name], f"{boxes.name}.all", axis=1)
            flat.append(self._reshape(name, (1, joined.channels, boxes.rows**2)))
            self._op("decode", [joined], replace(joined, channels=4 + classes))
        anchors = sum(boxes.rows**2 for boxes, _ in levels)
        every = self._node("Concat", flat, "every", axis=2)
        sides = self._part(every, 0, 4 * REG_MAX)
        bins = self._reshape(sides, (1, 4, REG_MAX, anchors))
        bins = self._node("Transpose", [bins], "bins", perm=[0, 1, 3, 2])
        shares = self._node("Softmax", [bins], "shares", axis=3)
        numbers = np.arange(REG_MAX, dtype=np.float32)[:, None]
        means = self._node("MatMul", [shares, self._constant("bins.weight", numbers)], "means")
        means = self._reshape(means, (1, 4, anchors))
        points = self._constant("points", np.zeros((1, 2, anchors), np.float32))
        low = self._node("Sub", [points, self._part(means, 0, 2)], "low")
        high = self._node("Add", [points, self._part(means, 2, 4)], "high")
        centre = self._node("Add", [low, high], "centre")
        extent = self._node("Sub", [high, low], "extent")
        both = self._node("Concat", [centre, extent], "both", axis=1)
        boxes_name = self._node(
            "Mul", [both, self._constant("strides", np.ones((1, anchors), np.float32))], "boxes"
        )
        scored = self._node("Sigmoid", [self._part(every, 4 * REG_MAX, 4 * REG_MAX + classes)], "p")
        return self._node("Concat", [boxes_name, scored], "output", axis=1)

    def _part(self, tensor: str, first: int, last: int) -> str:
        bounds = [
            self._constant(f"i{value}", np.asarray([value], np.int64)) for value in (first, last, 1)
        ]
        return self._node("Slice", [tensor, *bounds], f"{tensor}.{first}")

    def _reshape(self, tensor: str, shape: tuple[int, ...]) -> str:
        target = self._constant(f"{tensor}.shape", np.asarray(shape, np.int64))
        return self._node("Reshape", [tensor, target], f"{tensor}.flat")

    def _constant(self, name: str, value: Any) -> str:
        self._constants[name] = value
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append((op, inputs, output, attributes))
        return output

    def _op(self, kind: OpKind, inputs: Iterable[Map], output: Map) -> Map:
        inputs = list(inputs)
        number = len(self._layers)
        rows = inputs[0].rows
        self._note(
            OtherOp(
                f"{kind}{number}", kind, sum(x.channels for x in inputs), output.channels,
                rows, rows, output.rows, output.rows, BASELINE_BITS,
            ),
            "",
            output.steps,
        )  # fmt: skip
        return replace(output, steps=output.steps | {number})

    def _note(
        self, layer: ConvShape | OtherOp, source: str, behind: frozenset[int] = frozenset()
    ) -> None:
        self._layers.append(layer)
        self._behind.append(behind)
        self._sources.append(source)
        self._readers.append(set())

    def workload(self) -> Workload:
        """Return the layers; an op has the most bits of the convolutions that it comes after."""
        layers = [
            layer if isinstance(layer, ConvShape) else replace(layer, act_bits=self._bits(number))
            for number, layer in enumerate(self._layers)
        ]
        shape = (self.image.channels, self.image.rows, self.image.rows)
        changes = [
            conversion(layer.name, layer.out_channels, layer.out_h, layer.out_w)
            for number, layer in enumerate(layers)
            if isinstance(layer, ConvShape) and self._is_converted(number, layer)
        ]
        return Workload((*with_siblings(layers, self._sources), *changes), 1, shape)

    def _is_converted(self, number: int, conv: ConvShape) -> bool:
        """Tell whether some convolution reads what another one writes in another format."""
        readers = (self._layers[reader] for reader in self._readers[number])
        wanted = {is_integer(reader) for reader in readers if isinstance(reader, ConvShape)}
        return (not is_integer(conv)) in wanted

    def _bits(self, number: int) -> int:
        if not self._readers[number]:
            return BASELINE_BITS  # decoding
        writers = (self._layers[step] for step in self._behind[number])
        bits = (writer.act_bits for writer in writers if isinstance(writer, ConvShape))
        return max(bits, default=BASELINE_BITS)

    def onnx(self, outputs: Sequence[str]) -> bytes:
        """Return the ONNX file; its weights are random, of a size that keeps values near 1."""
        from onnx import TensorProto, helper

        image = [1, self.image.channels, self.image.rows, self.image.rows]
        nodes = [self._dequantize(name) for name, _, int8 in self._convs if int8]
        nodes += [
            helper.make_node(op, inputs, [output], name=output, **attributes)
            for op, inputs, output, attributes in self._nodes
        ]
        graph = helper.make_graph(
            nodes,
            "probe",
            [helper.make_tensor_value_info(self.image.name, TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self._initializers(),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data

    @staticmethod
    def _dequantize(conv: str) -> Any:
        from onnx import helper

        inputs = [f"{conv}.int8", f"{conv}.scale"]
        return helper.make_node("DequantizeLinear", inputs, [f"{conv}.weight"], axis=0)

    def _initializers(self) -> list[Any]:
        from onnx import numpy_helper

        random = np.random.default_rng(self._seed)
        values = dict(self._constants)
        for name, (out, inside, kernel), int8 in self._convs:
            size = math.sqrt(2 / (inside * kernel**2))
            shape = (out, inside, kernel, kernel)
            values[f"{name}.bias"] = random.normal(0, 0.1, out).astype(np.float32)
            if int8:
                values[f"{name}.int8"] = random.normal(0, 30, shape).clip(-127, 127).astype(np.int8)
                values[f"{name}.scale"] = np.full(out, size / 30, np.float32)
            else:
                values[f"{name}.weight"] = random.normal(0, size, shape).astype(np.float32)
        return [numpy_helper.from_array(np.asarray(value), key) for key, value in values.items()]
