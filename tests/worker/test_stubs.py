"""The generated stubs say what the .proto files say, on both sides."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from paretrim_worker import device_pb2, onnx_subset_pb2

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("proto", "stub"),
    [
        ("hw_models/device.proto", device_pb2),
        ("hw_models/worker/onnx_subset.proto", onnx_subset_pb2),
    ],
)
def test_stubs_are_up_to_date(tmp_path, proto, stub):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    path = REPOSITORY / proto
    out = tmp_path / "set"
    arguments = ["protoc", "-I", str(path.parent), "--descriptor_set_out", str(out), path.name]
    assert protoc.main(arguments) == 0
    (expected,) = FileDescriptorSet.FromString(out.read_bytes()).file
    got = FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)
    assert without_json_names(got) == without_json_names(expected), "run `make stubs`"


def without_json_names(proto):
    """protoc writes them into sets only."""
    messages = list(proto.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return proto


@pytest.mark.parametrize("suffix", [".py", ".pyi"])
def test_the_clients_copy_is_the_workers(suffix):
    name = "device_pb2" + suffix
    copy = REPOSITORY / "hw_models" / name
    assert copy.read_bytes() == Path(device_pb2.__file__).with_name(name).read_bytes()
