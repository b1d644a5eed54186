"""Load an ONNX file and infer the shape of every tensor in it, for one batch and input size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hw_models.errors import InputError

Shape: TypeAlias = tuple[int, ...]

GRIDS = {"QuantizeLinear", "DequantizeLinear"}
_MAX_FOLDED = 1024
"""Elements up to which a constant is worth evaluating: it may be a shape."""


def load_with_shapes(path: Path, batch: int, imgsz: tuple[int, int] | None) -> Any:
    """Return a checked model with all shapes that can be known; big weights are emptied.

    Args:
        path: The file.
        batch: Images at once, for a dynamic first dimension.
        imgsz: (rows, columns) for dynamic input sizes.

    Raises:
        InputError: See `hw_models.onnx_reader.read_onnx`.
    """
    model = _load(path)
    _fix_input(model, path, batch, imgsz)
    return _infer_shapes(model, path)


def _load(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"No ONNX file at {path}.", "Check the path of the model.")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InputError(
            f"{path} is not a readable ONNX file ({error}).", "Export the model again."
        ) from error
    if not model.graph.node:
        raise InputError(f"{path} holds no operators.", "Export the model again.")
    # Data in other files may name any path on this machine: never followed.
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise InputError(
            f"{path} keeps its weights in other files (external data), which is not supported.",
            "Save the model as one file: onnx.save(model, path, save_as_external_data=False).",
        )
    return model


def _tensors(graph: Any) -> Iterable[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def real_inputs(graph: Any) -> list[Any]:
    """Return the inputs that a caller has to give."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _fix_input(model: Any, path: Path, batch: int, imgsz: tuple[int, int] | None) -> None:
    inputs = real_inputs(model.graph)
    if not inputs:
        raise InputError(f"{path} has no input.", "Export the model with its image input.")
    dims = inputs[0].type.tensor_type.shape.dim
    exported = _input_size(dims)
    wanted = {0: batch}
    if imgsz is not None and len(dims) == 4:
        wanted |= {2: imgsz[0], 3: imgsz[1]}
    for axis, dim in enumerate(dims):
        fixed = dim.dim_value
        if fixed > 0 and (axis == 0 or axis not in wanted or fixed == wanted[axis]):
            if axis == 0 and batch not in (1, fixed):
                raise InputError(
                    f"{path} is exported for batch {fixed}, asked for batch {batch}.",
                    "Export it with a dynamic batch axis or ask for the batch it has.",
                )
            continue
        if fixed > 0:
            raise InputError(
                f"{path} is exported for {exported}, asked for --imgsz {imgsz}.",
                "Leave --imgsz away or export with dynamic axes.",
            )
        if axis not in wanted:
            raise InputError(
                f"{path} has a dynamic input shape {exported}: its cost depends on it.",
                "Give the size: --imgsz 640 or --imgsz 480,640.",
            )
        dim.dim_value = wanted[axis]


def _input_size(dims: Any) -> str:
    return "x".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)


def _infer_shapes(model: Any, path: Path) -> Any:
    import onnx

    # Shapes that an exporter wrote for symbolic axes would win over the fixed input: drop them.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    _drop_weights(model.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        while _unknown_shapes(inferred.graph) and _fold_constants(inferred):
            inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
        return inferred
    except Exception as error:  # onnx raises several unrelated types for a malformed graph
        raise InputError(
            f"The shapes of {path} cannot be inferred ({error}).", "Export the model again."
        ) from error


def _drop_weights(graph: Any) -> None:
    """Empty the big initialisers: only their shapes matter, and copying them takes seconds."""
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _MAX_FOLDED:
            for content in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(content)


def _known_shapes(graph: Any) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.HasField("shape") and all(dim > 0 for dim in shape):
            shapes[value.name] = shape
    return shapes


def _unknown_shapes(graph: Any) -> bool:
    known = _known_shapes(graph)
    return any(name and name not in known for node in graph.node for name in node.output)


def _fold_constants(model: Any) -> bool:
    """Evaluate the small constant subgraphs that exporters write to compute shapes.

    Returns:
        Whether anything was folded.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    shapes = _known_shapes(graph)
    values = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _MAX_FOLDED
    }
    kept, folded = [], 0
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" and inputs[0] in shapes and not node.attribute:
            results = [np.asarray(shapes[inputs[0]], dtype=np.int64)]
        elif (
            len(node.output) == 1
            and node.op_type not in GRIDS  # weights and biases, which decide no shape
            and all(name in values for name in inputs)
        ):
            results = ReferenceEvaluator(_single(node, model)).run(
                None, {name: values[name] for name in inputs}
            )
        else:
            kept.append(node)
            continue
        folded += 1
        values[node.output[0]] = np.asarray(results[0])
        graph.initializer.append(
            onnx.numpy_helper.from_array(values[node.output[0]], node.output[0])
        )
    del graph.node[:]
    graph.node.extend(kept)
    return folded > 0


def _single(node: Any, model: Any) -> Any:
    """Return a model of one node, to be evaluated."""
    import onnx

    def value(name: str) -> Any:
        return onnx.helper.make_value_info(name, onnx.TypeProto())

    graph = onnx.helper.make_graph(
        [node], "fold", [value(name) for name in dict.fromkeys(node.input) if name],
        [value(node.output[0])],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=list(model.opset_import))
