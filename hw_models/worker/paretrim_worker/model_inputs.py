"""The tensors a model is timed on: shapes from the file and the request, values from a fixed seed.

The same seed gives the same values on every device, so the outputs of two devices can be compared.
"""

import math
from typing import Dict, List, Mapping, NamedTuple, Sequence

import numpy as np

from paretrim_worker import onnx_subset_pb2 as onnx
from paretrim_worker.errors import BadRequest

SEED = 0
MAX_INPUT_ELEMENTS = 64 * 1024 * 1024

# numpy types by TensorProto.DataType (onnx.proto); a detector reads images.
ELEMENT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}


class Input(NamedTuple):
    """One input tensor.

    Attributes:
        name: As in the file.
        array: The values.
        is_open: The file leaves its shape open, the request has fixed it.
    """

    name: str
    array: np.ndarray
    is_open: bool


class Output(NamedTuple):
    """What became of an output: enough to compare two devices without sending tensors."""

    name: str
    dims: List[int]
    mean: float
    rms: float
    finite: bool


def make_inputs(graph: onnx.Graph, asked: Mapping[str, Sequence[int]]) -> List[Input]:
    """Make the inputs of a model.

    Args:
        graph: The model's.
        asked: Shapes by input name; needed where the file leaves a dimension open.

    Raises:
        BadRequest: If a shape is missing, contradicts the file or is too large.
    """
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in weights]
    unknown = sorted(set(asked) - {value.name for value in values})
    if unknown:
        raise BadRequest("shapes are given for inputs that the model lacks: {}".format(unknown))
    random = np.random.RandomState(SEED)  # its stream is the same in every numpy
    return [_make_input(value, asked, random) for value in values]


def _make_input(
    value: onnx.ValueInfo, asked: Mapping[str, Sequence[int]], random: np.random.RandomState
) -> Input:
    tensor = value.type.tensor_type
    if tensor.elem_type not in ELEMENT_TYPES:
        raise BadRequest(
            "input {!r}: element type {} is not supported".format(value.name, tensor.elem_type)
        )
    declared = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in tensor.shape.dim
    ]
    shape = list(asked.get(value.name, ())) or [wanted or 0 for wanted in declared]
    fits = len(shape) == len(declared) and all(
        got > 0 and wanted in (None, got) for got, wanted in zip(shape, declared)
    )
    if not fits:
        raise BadRequest(
            "input {!r}: expected a shape that fits {}, got {}".format(value.name, declared, shape)
        )
    if math.prod(shape) > MAX_INPUT_ELEMENTS:
        raise BadRequest(
            "input {!r}: at most {} elements, got the shape {}".format(
                value.name, MAX_INPUT_ELEMENTS, shape
            )
        )
    dtype = np.dtype(ELEMENT_TYPES[tensor.elem_type])
    array = random.random_sample(shape)
    if dtype.kind in "iu":
        array = np.floor(array * 100)
    return Input(value.name, array.astype(dtype), None in declared)


def summarize(outputs: Mapping[str, np.ndarray]) -> List[Output]:
    """Summarise output tensors."""
    summaries = []
    for name, array in outputs.items():
        numbers = np.asarray(array, dtype=np.float64)
        finite = bool(np.isfinite(numbers).all())
        mean = float(numbers.mean()) if finite and numbers.size else 0.0
        rms = float(np.sqrt(np.square(numbers).mean())) if finite and numbers.size else 0.0
        summaries.append(Output(name, list(numbers.shape), mean, rms, finite))
    return summaries


def feeds(inputs: Sequence[Input]) -> Dict[str, np.ndarray]:
    """The arrays by name."""
    return {entry.name: entry.array for entry in inputs}
