"""Which ONNX files are let in: plain tensor programs, small enough, self-contained.

A runtime's parser and kernels are large C++ programs that were not written for hostile files. So a
file is looked at first, in the measuring process with its limits, with a schema of our own that
knows just the fields that decide. What is not allowed is refused: other operators and domains,
functions, sub-graphs (If, Loop, Scan are not in the list and graph attributes are refused
wherever they stand), external data, sparse tensors, training information, tensors whose bytes do
not match their shape.
"""

import math
from typing import FrozenSet, Iterator, NamedTuple

from google.protobuf.message import DecodeError

from paretrim_worker import onnx_subset_pb2 as onnx
from paretrim_worker.errors import BadRequest

OPSETS = range(7, 24)
"""From the first that YOLOv5 was ever exported with to the newest that onnxruntime 1.32 reads."""

OPERATORS: FrozenSet[str] = frozenset(
    """
    Abs Add ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv
    ConvInteger ConvTranspose DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu
    Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu Log LogSoftmax MatMul MatMulInteger Max MaxPool Min Mish
    Mul Neg PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Resize Round Selu Shape Sigmoid Sign Slice
    Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose
    Unsqueeze Upsample Where
    """.split()  # noqa: SIM905 a list of words reads better than a list of strings
)
"""Element-wise, convolution, pooling, shape and quantisation operators of the default domain."""

DOMAINS = ("", "ai.onnx")

# Bits of one element by TensorProto.DataType (onnx.proto): float, uint8, int8, uint16, int16,
# int32, int64, bool, float16, double, uint32, uint64, bfloat16, float8 x 4, uint4, int4. Strings
# and complex numbers have no entry: they are refused.
ELEMENT_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4,
}  # fmt: skip


class Caps(NamedTuple):
    """How large a model may be.

    Attributes:
        nodes: Nodes of the graph.
        tensor_bytes: Bytes of any one tensor: a weight, an input or an output.
        total_bytes: Bytes of all weights together.
        rank: Dimensions of a tensor.
    """

    nodes: int = 20_000
    tensor_bytes: int = 256 * 1024 * 1024
    total_bytes: int = 1024 * 1024 * 1024
    rank: int = 8


class Summary(NamedTuple):
    """What a checked file is.

    Attributes:
        opset: Of the default domain.
        nodes: How many.
        quantizes_activations: It has QuantizeLinear nodes: INT8 kernels are wanted.
    """

    opset: int
    nodes: int
    quantizes_activations: bool


def check_model(data: bytes, caps: Caps = Caps()) -> Summary:
    """Look an ONNX file over.

    Args:
        data: The file.
        caps: How large it may be.

    Raises:
        BadRequest: If it is not ONNX or anything in it is not allowed; the message says what.
    """
    try:
        return _check(parse(data), caps)
    except ValueError as error:  # text that is not UTF-8
        raise BadRequest("not an ONNX file: {}".format(error)) from None


def parse(data: bytes) -> onnx.Model:
    """Read an ONNX file's deciding fields.

    Raises:
        BadRequest: If it is not ONNX.
    """
    model = onnx.Model()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise BadRequest("not an ONNX file: {}".format(error)) from None
    return model


def _check(model: onnx.Model, caps: Caps) -> Summary:
    opset = _check_opset(model)
    for what, present in (
        ("functions", model.functions),
        ("training information", model.training_info),
        ("sparse weights", model.graph.sparse_initializer),
    ):
        if present:
            raise BadRequest("the model has {}, which are not allowed".format(what))
    _check_graph(model.graph, caps)
    quantizes = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return Summary(opset, len(model.graph.node), quantizes)


def _check_opset(model: onnx.Model) -> int:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    default = [version for domain, version in versions.items() if domain in DOMAINS]
    if not default:
        raise BadRequest("not an ONNX model: it names no operator set")
    opset = int(max(default))
    if opset not in OPSETS:
        raise BadRequest(
            "operator set: expected {} to {}, got {}".format(OPSETS[0], OPSETS[-1], opset)
        )
    return opset


def _check_graph(graph: onnx.Graph, caps: Caps) -> None:
    if not 0 < len(graph.node) <= caps.nodes:
        raise BadRequest("nodes: expected 1 to {}, got {}".format(caps.nodes, len(graph.node)))
    if not graph.output:
        raise BadRequest("the model has no output")
    for node in graph.node:
        _check_node(node)
    total = 0
    for tensor in _tensors(graph):
        total += _check_tensor(tensor, caps)
    if total > caps.total_bytes:
        raise BadRequest("weights: at most {} bytes, got {}".format(caps.total_bytes, total))
    for value in list(graph.input) + list(graph.output):
        _check_value(value, caps)


def _check_node(node: onnx.Node) -> None:
    _check_text(node.op_type, node.domain, node.name)
    if node.domain not in DOMAINS or node.op_type not in OPERATORS:
        raise BadRequest(
            "operator {!r} of node {!r} is not allowed".format(
                ".".join(filter(None, [node.domain, node.op_type]))[:80], node.name[:80]
            )
        )
    for attribute in node.attribute:
        _check_text(attribute.name)
        sparse = attribute.HasField("sparse_tensor") or attribute.sparse_tensors
        if attribute.HasField("g") or attribute.graphs or attribute.ref_attr_name or sparse:
            raise BadRequest(
                "attribute {!r} of node {!r}: sub-graphs, references and sparse tensors are not "
                "allowed".format(attribute.name[:80], node.name[:80])
            )


def _check_text(*names: str) -> None:
    """Refuse bytes, which protobuf hands out bytes where a name is not UTF-8."""
    for name in names:
        if not isinstance(name, str):
            raise BadRequest("not an ONNX file: {!r} is no text".format(name[:80]))


def _tensors(graph: onnx.Graph) -> Iterator[onnx.Tensor]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: onnx.Tensor, caps: Caps) -> int:
    """Return the tensor's bytes once they match its shape."""
    _check_text(tensor.name)
    name = tensor.name[:80]
    if tensor.external_data or tensor.data_location:
        raise BadRequest("weight {!r} lies in another file, which is not allowed".format(name))
    expected = _bytes_of(tensor.data_type, list(tensor.dims), caps, name)
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        got, wanted = len(tensor.raw_data), expected
    else:
        got, wanted = _listed_elements(tensor), elements
    if tensor.data_type in (21, 22) and not tensor.HasField("raw_data"):
        wanted = (elements + 1) // 2  # two 4-bit numbers an int32
    if got != wanted:
        raise BadRequest(
            "weight {!r} of shape {}: expected {} bytes or elements, got {}".format(
                name, list(tensor.dims), wanted, got
            )
        )
    return expected


def _listed_elements(tensor: onnx.Tensor) -> int:
    return (
        len(tensor.float_data)
        + len(tensor.int32_data)
        + len(tensor.int64_data)
        + len(tensor.double_data)
        + len(tensor.uint64_data)
    )


def _check_value(value: onnx.ValueInfo, caps: Caps) -> None:
    """Check a graph input or output; open dimensions count as 1 (model_inputs.py fixes them)."""
    _check_text(value.name)
    if not value.type.HasField("tensor_type"):
        raise BadRequest("{!r} is not a tensor".format(value.name[:80]))
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in tensor.shape.dim]
    _bytes_of(tensor.elem_type, dims, caps, value.name[:80])


def _bytes_of(data_type: int, dims: "list[int]", caps: Caps, name: str) -> int:
    bits = ELEMENT_BITS.get(data_type)
    if bits is None:
        raise BadRequest("{!r}: element type {} is not allowed".format(name, data_type))
    if len(dims) > caps.rank or any(dim < 0 for dim in dims):
        raise BadRequest(
            "{!r}: expected at most {} dimensions, none negative, got {}".format(
                name, caps.rank, dims[: 2 * caps.rank]
            )
        )
    size = (math.prod(dims) * bits + 7) // 8
    if size > caps.tensor_bytes:
        raise BadRequest(
            "{!r} of shape {}: at most {} bytes, got {}".format(name, dims, caps.tensor_bytes, size)
        )
    return size
