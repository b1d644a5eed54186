"""Certificates and tokens, with real TLS on loopback."""

import grpc
import pytest
import trustme

from .conftest import CPU, Running, Wire

TOKEN = "correct horse battery staple"  # noqa: S105 a test's


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(authority, tmp_path_factory):
    """A worker that wants a client certificate and a token."""
    folder = tmp_path_factory.mktemp("secured")
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    running = Running(
        [
            *CPU,
            "--tls-cert=%s" % (folder / "cert.pem"),
            "--tls-key=%s" % (folder / "key.pem"),
            "--tls-client-ca=%s" % (folder / "ca.pem"),
            "--token-file=%s" % token,
        ],
        folder,
    )
    yield running
    errors = running.stop()
    assert TOKEN not in errors
    assert TOKEN not in " ".join(running.process.args)


def wire_to(worker, authority, client=None, token=TOKEN):
    pair = (None, None)
    if client is not None:
        pair = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *pair)
    return Wire("", grpc.secure_channel(worker.address, credentials), token)


def code_of(wire):
    try:
        wire.info(timeout_s=10)
    except grpc.RpcError as error:
        return error.code()
    finally:
        wire.close()
    return grpc.StatusCode.OK


def test_the_right_certificate_and_token(secured, authority):
    client = authority.issue_cert("client.example")
    assert code_of(wire_to(secured, authority, client)) == grpc.StatusCode.OK


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper()])
def test_a_wrong_or_missing_token(secured, authority, token):
    client = authority.issue_cert("client.example")
    wire = wire_to(secured, authority, client, token)
    assert code_of(wire) == grpc.StatusCode.UNAUTHENTICATED


def test_health_wants_the_token_too(secured, authority):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    wire = wire_to(secured, authority, authority.issue_cert("client.example"))
    stub = health_pb2_grpc.HealthStub(wire.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    metadata = (("authorization", "Bearer " + TOKEN),)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10, metadata=metadata).status == 1
    wire.close()


def test_no_client_certificate(secured, authority):
    assert code_of(wire_to(secured, authority)) == grpc.StatusCode.UNAVAILABLE


def test_a_client_certificate_of_another_authority(secured, authority):
    stranger = trustme.CA().issue_cert("client.example")
    assert code_of(wire_to(secured, authority, stranger)) == grpc.StatusCode.UNAVAILABLE


def test_a_server_of_another_authority(secured, authority):
    client = authority.issue_cert("client.example")
    assert code_of(wire_to(secured, trustme.CA(), client)) == grpc.StatusCode.UNAVAILABLE


def test_no_tls_at_all(secured):
    assert code_of(Wire(secured.address, token=TOKEN)) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*CPU], "needs --tls-cert"),
        ([*CPU, "--insecure", "--listen=0.0.0.0:0"], "loopback"),
        (["--runtime=trtexec", "--trtexec=/absent", "--insecure"], "no program at"),
        ([*CPU, "--insecure", "--processor=npu"], "this onnxruntime has"),
    ],
)
def test_a_worker_that_refuses_to_start(tmp_path, arguments, says):
    with pytest.raises(AssertionError, match=says):
        Running(arguments, tmp_path)
    assert list(tmp_path.glob("paretrim-worker-*")) == []
