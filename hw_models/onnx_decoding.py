"""Which part of an ONNX graph turns the maps of a detection head into boxes and scores.

Exporters write it in a dozen small ops, each in another way (ultralytics' distribution focal loss,
yolov5's anchors, YOLOX's grids, SSD's predictors). The cost model knows it as what it is for: one
`decode` op an output map, as `spaces.trace` notes it of a PyTorch model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_Tensors: TypeAlias = frozenset[str]


@dataclass(frozen=True, slots=True)
class Decoding:
    """The decoding part of a graph.

    Args:
        nodes: Indices of its nodes.
        maps: What it reads: the outputs of the head's last convolutions.
        results: What it makes.
    """

    nodes: frozenset[int] = frozenset()
    maps: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


def find_decoding(
    graph: Any, ops: Collection[str], constants: Collection[str], shapes: Mapping[str, Any]
) -> Decoding:
    """Find the ops that no product follows and that join maps of several sizes.

    Args:
        graph: An ONNX graph in topological order.
        ops: Types of the ops that decoding may consist of.
        constants: Names of constant tensors.
        shapes: Shapes of the other tensors, as far as they are known.

    Returns:
        The decoding; an empty one where the graph has none.
    """
    products = _products(graph)
    followed = _followed_by_product(graph, products)
    able = {*ops, *PRODUCTS}
    others = {
        name
        for index, node in enumerate(graph.node)
        if index in followed or node.op_type not in able
        for name in node.output
    }
    sources = _sources(graph, products, others.union(constants))
    ends = {
        index: sources[node.output[0]]
        for index, node in enumerate(graph.node)
        if index not in products and sources[node.output[0]]
    }
    joined = _Tensors().union(
        *(maps for maps in ends.values() if len({tuple(shapes.get(m, ()))[2:] for m in maps}) > 1)
    )
    nodes = frozenset(index for index, maps in ends.items() if maps <= joined)
    made = {name for index in nodes for name in graph.node[index].output if name}
    used = {value.name for value in graph.output}
    used.update(
        name for index, node in enumerate(graph.node) if index not in nodes for name in node.input
    )
    return Decoding(nodes, tuple(sorted(joined)), tuple(sorted(made & used)))


def _products(graph: Any) -> set[int]:
    """Return the convolutions and matrix products, but for mean values over numbered bins."""
    import onnx

    small = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.raw_data or tensor.float_data
    }
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            if isinstance(value, onnx.TensorProto):
                small[node.output[0]] = onnx.numpy_helper.to_array(value)

    def means(node: Any) -> bool:
        weight = small.get(node.input[1])
        return weight is not None and np.array_equal(np.ravel(weight), np.arange(np.size(weight)))

    return {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in PRODUCTS and not means(node)
    }


def _followed_by_product(graph: Any, products: set[int]) -> set[int]:
    """Return the nodes whose results reach a product."""
    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers[name].append(index)
    followed: set[int] = set()
    for index in reversed(range(len(graph.node))):
        outputs = graph.node[index].output
        if any(r in products or r in followed for name in outputs for r in readers[name]):
            followed.add(index)
    return followed


def _sources(graph: Any, products: set[int], others: Collection[str]) -> dict[str, _Tensors]:
    """Return for each tensor, but the others, the last products' outputs it is computed from."""
    sources: dict[str, _Tensors] = defaultdict(_Tensors)
    for index, node in enumerate(graph.node):
        if node.output[0] not in others:
            read = _Tensors().union(*(sources[name] for name in node.input))
            made = _Tensors(node.output[:1]) if index in products else read
            sources.update(dict.fromkeys(node.output, made))
    return sources
