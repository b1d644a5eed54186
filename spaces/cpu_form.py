"""Few-bit activations in the form that ONNX Runtime's CPU kernels run in integers.

TensorRT fuses a convolution whose *input* is rounded. ONNX Runtime's integer convolution also
wants its output rounded, activations unsigned (int8 ones run slower than float32), and what lies
between two convolutions (SiLU, concatenation, addition, pooling) rounded as well: else every
activation is converted back and forth. So each of these tensors gets a grid of its own,

    x -> (clamp(round(x / step) + zero, 0, 255) - zero) * step,

with the range that loses least on calibration images: of what enters a SiLU, least behind the
SiLU, for which everything below -5 is the same. The decoding of boxes stays in float32: rounded, it
costs all accuracy.

The picture has 8 bits already: its grid loses nothing. CPUs without VNNI add products of two
neighbouring bytes in 16 bits. A bright picture times 8-bit weights overflows them (an activation
times such weights hardly ever does), so the convolution that reads it gets weights of 7 bits. Where
it has a stride of 2, as in every YOLOv5, it reads blocks of 2x2 pixels as channels, the same
numbers in another order: kernels copy 12 neighbouring bytes faster than 3. Of YOLOv5nu at 320 px it
takes 17 % of the time in float32, 11 % in integers, 6 % by blocks (AVX2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper

LEVELS = 255
SAMPLES = 4096  # of one tensor and image
RATIOS = np.linspace(1.0, 0.3, 29, dtype=np.float32)  # of the largest value seen, to clip at

SAME_GRID = {"MaxPool", "Resize"}  # kernels that hand integers on as they are
BETWEEN = SAME_GRID | {"Sigmoid", "Mul", "Add", "Concat"}
"""Ops that run in integers once all they read is on a grid."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """An unsigned 8-bit grid.

    Attributes:
        step: Distance of two values.
        zero: The integer that stands for 0, in 0..255.
    """

    step: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """Return the grid that covers low..high and 0."""
        low, high = min(low, 0.0), max(high, 1e-6)
        step = (high - low) / LEVELS
        return cls(step, round(-low / step))

    def round(self, x: FloatArray) -> FloatArray:
        """Round values of any shape to the grid."""
        integers = np.clip(np.rint(x / self.step) + self.zero, 0, LEVELS) - self.zero
        return (integers * self.step).astype(np.float32)


OF_SIGMOID = Grid(1 / 256, 0)
OF_PICTURE = Grid(1 / LEVELS, 0)
PICTURE_WEIGHT_BITS = 7
"""Of the weights that a picture is multiplied with: 2 x 255 x 63 fits into 16 bits."""
BLOCK = 2
"""Rows and columns of the picture's pixels that are read as channels."""


def rounded_tensors(nodes: Iterable[onnx.NodeProto], convolutions: Collection[str]) -> list[str]:
    """Choose what gets a grid: what integer convolutions read and write, and what lies between.

    Args:
        nodes: A graph in execution order.
        convolutions: Outputs of the convolutions that are to run in integers.

    Returns:
        Names of tensors, in execution order.
    """
    nodes = list(nodes)
    written = {tensor for node in nodes for tensor in node.output}
    chosen = dict.fromkeys(
        tensor
        for node in nodes
        if node.op_type == "Conv" and node.output[0] in convolutions
        for tensor in (node.input[0], node.output[0])
    )
    for node in nodes:
        read = [tensor for tensor in node.input if tensor in written or tensor in chosen]
        if node.op_type in BETWEEN and read and all(tensor in chosen for tensor in read):
            chosen[node.output[0]] = None
    return list(chosen)


def calibrate_grids(
    model: onnx.ModelProto, tensors: Collection[str], images: FloatArray
) -> dict[str, Grid]:
    """Choose the grids of some tensors of a float model.

    Args:
        model: With an input `images`, the picture.
        tensors: From `rounded_tensors`.
        images: [N, 3, S, S] in 0..1.
    """
    writers = {tensor: node for node in model.graph.node for tensor in node.output}
    into_silu = {node.input[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    grids = {
        name: OF_PICTURE
        for name in tensors
        if name not in writers or writers[name].op_type == "SpaceToDepth"
    }
    others = [name for name in tensors if name not in grids]
    samples = _sample(model, others, images)
    for name in others:
        writer = writers[name]
        if writer.op_type == "Sigmoid":
            grids[name] = OF_SIGMOID
        elif writer.op_type in SAME_GRID and writer.input[0] in grids:
            grids[name] = grids[writer.input[0]]
        else:
            grids[name] = _best_grid(samples[name], through_silu=name in into_silu)
    return grids


def blocked_weight(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the weight for a map's blocks that does what another does for the map, with stride 2.

    Args:
        weight: [O, I, kh, kw], kh and kw even.

    Returns:
        [O, 4 I, kh / 2, kw / 2], in the order of channels of ONNX's SpaceToDepth.
    """
    outputs, inputs, rows, columns = weight.shape
    rows, columns = rows // BLOCK, columns // BLOCK
    blocks = weight.reshape(outputs, inputs, rows, BLOCK, columns, BLOCK)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, BLOCK**2 * inputs, rows, columns)


def _sample(
    model: onnx.ModelProto, tensors: Collection[str], images: FloatArray
) -> Mapping[str, FloatArray]:
    """Run a model and keep some values of each tensor, its smallest and largest among them."""
    if not tensors:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kept: dict[str, list[FloatArray]] = {name: [] for name in tensors}
    for image in images:
        for name, x in zip(tensors, session.run(None, {"images": image[None]}), strict=True):
            flat = x.ravel()
            step = flat.size // SAMPLES | 1  # odd: visits all columns of a map
            kept[name] += [flat[::step].copy(), np.array([flat.min(), flat.max()])]
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _best_grid(x: FloatArray, through_silu: bool) -> Grid:
    """Choose the range whose rounding has the least squared error: first its top, then its end."""
    low, high = float(x.min()), float(x.max())
    expected = _silu(x) if through_silu else x

    def error(grid: Grid) -> float:
        rounded = grid.round(x)
        return float(np.square((_silu(rounded) if through_silu else rounded) - expected).mean())

    high = min((high * ratio for ratio in RATIOS), key=lambda top: error(Grid.over(low, top)))
    low = min((low * ratio for ratio in RATIOS), key=lambda end: error(Grid.over(end, high)))
    return Grid.over(low, high)


def _silu(x: FloatArray) -> FloatArray:
    return x / (1 + np.exp(-x.clip(-80, None)))
