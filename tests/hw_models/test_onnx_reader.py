from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hw_models.errors import InputError
from hw_models.onnx_reader import OnnxNetwork, read_onnx
from hw_models.workload import ConvShape, OtherOp


def weight(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    shape: list[int | str],
    output: str = "y",
    domains: tuple[str, ...] = (),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(path))
    return path


def conv(source: str, target: str, w: str, stride: int = 1, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, w], [target], name=target, strides=[stride, stride], **attributes
    )


def kinds(network: OnnxNetwork) -> list[str]:
    return [
        layer.kind if isinstance(layer, OtherOp) else "conv" for layer in network.workload.layers
    ]


def test_a_convolution_with_batch_norm_and_relu_is_one_layer(tmp_path: Path) -> None:
    scale = [weight(name, 16) for name in ("s", "b", "m", "v")]
    nodes = [
        conv("x", "c", "w", 2, pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [weight("w", 16, 3, 3, 3), *scale], [1, 3, 32, 48])
    network = read_onnx(path)
    assert network.workload.layers == (ConvShape("c", 3, 16, (3, 3), (2, 2), 1, 16, 24, 16, 16),)
    assert network.workload.input_shape == (3, 32, 48)
    assert network.warnings == ()


def test_silu_is_one_pass_and_a_residual_one_read(tmp_path: Path) -> None:
    nodes = [
        conv("x", "c", "w"),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [weight("w", 8, 8, 1, 1)], [1, 8, 4, 4])
    network = read_onnx(path)
    assert sorted(kinds(network)) == ["activation", "add", "conv"]
    for op in network.workload.others:
        assert (op.in_channels, op.out_channels, op.out_h) == (8, 8, 4)


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ([("Softplus", ["c"], "p"), ("Tanh", ["p"], "t"), ("Mul", ["c", "t"], "y")], "mish"),
        ([("Mish", ["c"], "y")], "mish"),
        ([("LeakyRelu", ["c"], "y")], "leaky"),
        ([("HardSwish", ["c"], "y")], "activation"),
    ],
)
def test_activations_are_told_apart(tmp_path: Path, ops: list[Any], kind: str) -> None:
    nodes = [conv("x", "c", "w"), *(helper.make_node(op, i, [o]) for op, i, o in ops)]
    path = save(tmp_path / "m.onnx", nodes, [weight("w", 8, 3, 1, 1)], [1, 3, 4, 4])
    assert kinds(read_onnx(path)) == ["conv", kind]


def test_convolutions_that_read_alike_are_siblings(tmp_path: Path) -> None:
    nodes = [
        conv("x", "a", "w1"), conv("x", "b", "w2"), conv("x", "c", "w3"),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]  # fmt: skip
    weights = [weight("w1", 8, 4, 1, 1), weight("w2", 16, 4, 1, 1), weight("w3", 8, 4, 3, 3)]
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [1, 4, 6, 6]))
    assert [layer.siblings for layer in network.workload.convs] == [2, 2, 1]
    concat = network.workload.others[0]
    assert (concat.kind, concat.in_channels, concat.out_channels) == ("concat", 24, 24)


def test_pool_resize_gemm_and_matmul(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "k"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["h"], transB=1),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "k"),
        weight("w", 10, 8), weight("b", 10), weight("v", 10, 5),
    ]  # fmt: skip
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [4, 8, 6, 6]), batch=4)
    assert kinds(network) == ["pool", "resize", "pool", "conv", "conv"]
    gemm, matmul = network.workload.convs
    assert (gemm.in_channels, gemm.out_channels, gemm.out_h, gemm.weights) == (8, 10, 1, 80)
    assert (matmul.in_channels, matmul.out_channels) == (10, 5)
    assert network.workload.batch == 4
    assert network.workload.macs == 4 * (80 + 50)


def test_depthwise_and_transposed_convolutions(tmp_path: Path) -> None:
    nodes = [
        conv("x", "d", "w", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["d", "t"], ["y"], strides=[2, 2], name="t"),
    ]
    weights = [weight("w", 8, 1, 3, 3), weight("t", 8, 4, 2, 2)]
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [1, 8, 6, 6]))
    depthwise, transposed = network.workload.convs
    assert (depthwise.groups, depthwise.weights) == (8, 72)
    assert transposed.macs == 36 * 8 * 4 * 4


def test_blocks_read_as_channels_are_a_larger_stride(tmp_path: Path) -> None:
    blocks = helper.make_node("SpaceToDepth", ["x"], ["b"], name="b", blocksize=2)
    weights = [weight("w", 16, 12, 3, 3), weight("v", 16, 3, 6, 6)]
    nodes = [blocks, conv("b", "y", "w", pads=[1] * 4)]
    strided = [conv("x", "y", "v", 2, pads=[2] * 4)]
    found = read_onnx(save(tmp_path / "b.onnx", nodes, weights, [1, 3, 32, 48]))
    expected = read_onnx(save(tmp_path / "s.onnx", strided, weights, [1, 3, 32, 48]))
    assert found.workload == expected.workload
    grouped = [blocks, conv("b", "y", "g", group=12, pads=[1] * 4)]
    apart = read_onnx(
        save(tmp_path / "g.onnx", grouped, [weight("g", 12, 1, 3, 3)], [1, 3, 32, 48])
    )
    assert kinds(apart) == ["copy", "conv"]


def quantised(tmp_path: Path) -> Path:
    def pair(tensor: str, out: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [out + "q"]),
            helper.make_node("DequantizeLinear", [out + "q", "scale", "zero"], [out]),
        ]

    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["wd"]),
        conv("xd", "c", "wd"),
        conv("c", "y", "w"),
    ]
    weights = [
        weight("w8", 8, 3, 1, 1, dtype=np.int8), weight("w", 4, 8, 1, 1),
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]  # fmt: skip
    return save(tmp_path / "q.onnx", nodes, weights, [1, 3, 4, 4])


def test_quantised_layers_are_read_as_int8(tmp_path: Path) -> None:
    network = read_onnx(quantised(tmp_path))
    assert [(c.weight_bits, c.act_bits) for c in network.workload.convs] == [(8, 8), (16, 16)]
    assert network.quantized


def test_unknown_ops_are_named_and_costed_by_bytes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"], name="d")]
    network = read_onnx(save(tmp_path / "m.onnx", nodes, [], [1, 4, 6, 6]))
    assert kinds(network) == ["unknown"]
    assert network.warnings == ("1 x Det is not modelled: costed by the bytes it moves.",)


def test_dynamic_shapes_need_a_size(tmp_path: Path) -> None:
    nodes = [conv("x", "y", "w")]
    shape: list[int | str] = ["n", 3, "h", "w"]
    path = save(tmp_path / "m.onnx", nodes, [weight("w", 8, 3, 1, 1)], shape)
    with pytest.raises(InputError, match="dynamic input shape nx3xhxw") as error:
        read_onnx(path)
    assert "--imgsz" in error.value.hint
    network = read_onnx(path, batch=2, imgsz=(32, 64))
    assert network.workload.batch == 2
    assert (network.workload.convs[0].out_h, network.workload.convs[0].out_w) == (32, 64)


def test_a_fixed_size_cannot_be_changed(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [conv("x", "y", "w")], [weight("w", 8, 3, 1, 1)], [1, 3, 8, 8])
    with pytest.raises(InputError, match="exported for 1x3x8x8"):
        read_onnx(path, imgsz=(16, 16))
    with pytest.raises(InputError, match="exported for batch 1"):
        read_onnx(path, batch=2)


def test_shapes_computed_in_the_graph_are_followed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["channels"]),
        helper.make_node("Div", ["channels", "two"], ["half"]),
        helper.make_node("Slice", ["x", "zero", "half", "one"], ["part"]),
        conv("part", "y", "w"),
    ]
    index = [numpy_helper.from_array(np.asarray([v], np.int64), n)
             for n, v in (("zero", 0), ("one", 1), ("two", 2))]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, [weight("w", 4, 8, 1, 1), *index], [1, 16, 5, 5])
    network = read_onnx(path)
    assert kinds(network) == ["concat", "conv"]
    assert network.workload.convs[0].in_channels == 8


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x08\x12\x00" * 20])
def test_files_that_are_not_onnx_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx"):
        read_onnx(path)


def test_every_truncation_of_a_file_is_an_input_error_or_readable(tmp_path: Path) -> None:
    whole = quantised(tmp_path).read_bytes()
    path = tmp_path / "t.onnx"
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        try:
            read_onnx(path)
        except InputError:
            continue


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No ONNX file"):
        read_onnx(tmp_path / "none.onnx")


def test_external_data_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [conv("x", "y", "w")], [weight("w", 8, 3, 1, 1)], [1, 3, 8, 8])
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="other files"):
        read_onnx(path)


def test_ops_behind_a_foreign_op_are_left_out_and_named(tmp_path: Path) -> None:
    nodes = [
        conv("x", "c", "w"),
        helper.make_node("EfficientNMS_TRT", ["c"], ["n"], domain="foreign", name="nms"),
        helper.make_node("Transpose", ["n"], ["y"], name="t"),
    ]
    weights = [weight("w", 8, 3, 1, 1)]
    path = save(tmp_path / "m.onnx", nodes, weights, [1, 3, 4, 4], domains=("foreign",))
    network = read_onnx(path)
    assert kinds(network) == ["conv", "unknown"]
    assert "EfficientNMS_TRT is not modelled" in network.warnings[0]
    assert network.warnings[1] == "Not costed, for want of shapes: Transpose."


def test_mutated_files_are_input_errors_or_readable(tmp_path: Path) -> None:
    whole = quantised(tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "t.onnx"
    refused = 0
    for _ in range(400):
        mutant = bytearray(whole)
        for position in rng.integers(0, len(mutant), rng.integers(1, 5)):
            mutant[position] = rng.integers(0, 256)
        path.write_bytes(bytes(mutant))
        try:
            read_onnx(path)
        except InputError:
            refused += 1
    assert 0 < refused < 400


def _head(kind: str) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Two maps of 8 and 4 rows with 6 channels each, joined behind `kind` of arithmetic."""
    nodes = [conv("x", "big", "w", 2), conv("x", "small", "w", 4)]
    weights = [weight("w", 6, 3, 1, 1), weight("half", 1)]
    for name in ("big", "small"):
        nodes += [
            helper.make_node("Sigmoid", [name], [f"{name}.s"]),
            helper.make_node("Mul", [f"{name}.s", "half"], [f"{name}.m"]),
            helper.make_node("Reshape", [f"{name}.m", "flat"], [f"{name}.f"]),
        ]
    weights.append(numpy_helper.from_array(np.asarray([0, 6, -1], np.int64), "flat"))
    joined = "y" if kind == "plain" else "all"
    nodes.append(helper.make_node("Concat", ["big.f", "small.f"], [joined], axis=2))
    if kind == "selected":
        weights.append(numpy_helper.from_array(np.asarray([5], np.int64), "k"))
        nodes.append(helper.make_node("TopK", ["all", "k"], ["y", "where"], axis=2))
    return nodes, weights


def test_decoding_is_one_op_a_map(tmp_path: Path) -> None:
    nodes, weights = _head("plain")
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [1, 3, 16, 16]))
    assert network.workload.others == (
        OtherOp("decode8x8", "decode", 6, 6, 8, 8, 8, 8, 16),
        OtherOp("decode4x4", "decode", 6, 6, 4, 4, 4, 4, 16),
    )


def test_what_picks_detections_is_no_part_of_decoding(tmp_path: Path) -> None:
    nodes, weights = _head("selected")
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [1, 3, 16, 16]))
    assert kinds(network) == ["conv", "conv", "softmax", "softmax", "decode", "decode"]


def test_maps_of_one_size_are_not_decoded(tmp_path: Path) -> None:
    nodes = [
        conv("x", "a", "w1"), conv("x", "b", "w2"),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]  # fmt: skip
    weights = [weight("w1", 8, 4, 1, 1), weight("w2", 16, 4, 1, 1)]
    network = read_onnx(save(tmp_path / "m.onnx", nodes, weights, [1, 4, 6, 6]))
    assert kinds(network) == ["conv", "conv", "concat"]
