import contextlib

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from paretrim_worker.errors import BadRequest
from paretrim_worker.onnx_check import Caps, check_model


def changed(data, change):
    """The model after a change to its message."""
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString()


def test_lets_plain_models_in(models):
    summary = check_model(models.conv())
    assert summary == (17, 2, False)
    assert check_model(models.quantized()).quantizes_activations


def with_node(node):
    return lambda model: model.graph.node.append(node)


def subgraph():
    return helper.make_graph([], "inner", [], [])


def external(model):
    weight = model.graph.initializer[0]
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    weight.data_location = TensorProto.EXTERNAL


def external_without_flag(model):
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def external_constant(model):
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT, raw_data=b"0000")
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))


def sparse(model):
    model.graph.sparse_initializer.add()


def short_weights(model):
    model.graph.initializer[0].raw_data = b"0" * 8


def huge_shape(model):
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**31, 2**31])


def negative_shape(model):
    model.graph.initializer[0].dims[0] = -8


def huge_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 2**40


def string_weights(model):
    tensor = helper.make_tensor("s", TensorProto.STRING, [1], [b"text"])
    model.graph.initializer.append(tensor)


def sequence_input(model):
    model.graph.input.append(
        helper.make_value_info(
            "s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1]))
        )
    )


def functions(model):
    model.functions.add(name="f", domain="")


def training(model):
    model.training_info.add()


def opset(version):
    def change(model):
        model.opset_import[0].version = version

    return change


def referring_attribute(model):
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.ref_attr_name = "alpha", "outer"


def no_nodes(model):
    del model.graph.node[:]


def no_output(model):
    del model.graph.output[:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_node(helper.make_node("If", ["x"], ["z"], then_branch=subgraph())), "'If'"),
        (with_node(helper.make_node("Loop", ["x"], ["z"], body=subgraph())), "'Loop'"),
        (with_node(helper.make_node("Relu", ["x"], ["z"], body=subgraph())), "sub-graphs"),
        (with_node(helper.make_node("Relu", ["x"], ["z"], more=[subgraph()])), "sub-graphs"),
        (with_node(helper.make_node("Attack", ["x"], ["z"])), "'Attack'"),
        (with_node(helper.make_node("Relu", ["x"], ["z"], domain="com.evil")), "com.evil.Relu"),
        (external, "another file"),
        (external_without_flag, "another file"),
        (external_constant, "another file"),
        (sparse, "sparse"),
        (short_weights, "expected 864 bytes"),
        (huge_shape, "at most"),
        (negative_shape, "none negative"),
        (huge_input, "at most"),
        (string_weights, "element type 8"),
        (sequence_input, "not a tensor"),
        (functions, "functions"),
        (training, "training"),
        (opset(6), "expected 7 to"),
        (opset(99), "expected 7 to"),
        (referring_attribute, "references"),
        (no_nodes, "nodes"),
        (no_output, "no output"),
    ],
)
def test_keeps_the_rest_out(models, change, says):
    with pytest.raises(BadRequest, match=says):
        check_model(changed(models.conv(), change))


@pytest.mark.parametrize(
    "caps", [Caps(nodes=1), Caps(tensor_bytes=863), Caps(total_bytes=863), Caps(rank=3)]
)
def test_caps_are_kept(models, caps):
    with pytest.raises(BadRequest):
        check_model(models.conv(), caps)


@pytest.mark.parametrize("data", [b"", b"\x00", b"PK\x03\x04", b"\x80\x04K\x01.", b"A" * 1000])
def test_other_files_are_no_models(data):
    with pytest.raises(BadRequest):
        check_model(data)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_is_let_in_or_refused_never_a_crash(models, data):
    original = bytearray(models.conv())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(original) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if what == "flip":
            original[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del original[at : at + data.draw(st.integers(1, 20))]
        else:
            original[at:at] = data.draw(st.binary(max_size=20))
        if not original:
            break
    with contextlib.suppress(BadRequest):
        check_model(bytes(original))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(BadRequest):
        check_model(data)
