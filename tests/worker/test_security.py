import pytest
from paretrim_worker.errors import BadRequest
from paretrim_worker.security import (
    Security,
    check_exposure,
    is_loopback,
    read_token,
    split_address,
)

FILE = __file__


def security(**given):
    from pathlib import Path

    return Security(
        **{name: Path(FILE) if value is True else value for name, value in given.items()}
    )


TLS = {"certificate": True, "key": True}


@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("127.0.0.1", {**TLS, "token_file": True}),
        ("localhost", {**TLS, "token_file": True}),
        ("::1", {**TLS, "client_ca": True, "token_file": True}),
        ("192.0.2.7", {**TLS, "client_ca": True, "token_file": True}),
        ("0.0.0.0", {**TLS, "client_ca": True, "token_file": True}),
    ],
)
def test_listens(host, given):
    check_exposure(host, security(**given))


def test_insecure_on_loopback():
    check_exposure("127.0.0.1", Security(insecure=True))


@pytest.mark.parametrize(
    ("host", "given", "says"),
    [
        ("127.0.0.1", {}, "--tls-cert and --tls-key, --token-file"),
        ("127.0.0.1", TLS, "--token-file"),
        ("127.0.0.1", {"token_file": True}, "--tls-cert"),
        ("192.0.2.7", {**TLS, "token_file": True}, "--tls-client-ca"),
        ("192.0.2.7", {**TLS, "client_ca": True}, "--token-file"),
        ("0.0.0.0", {**TLS, "token_file": True}, "--tls-client-ca"),
        ("::", {}, "--tls-client-ca"),
        ("127.0.0.1", {"certificate": True}, "both or none"),
        ("127.0.0.1", {"client_ca": True, "token_file": True}, "with it"),
    ],
)
def test_refuses_to_listen(host, given, says):
    with pytest.raises(BadRequest, match=says):
        check_exposure(host, security(**given))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "no.such.host.invalid"])
def test_insecure_is_for_loopback_only(host):
    with pytest.raises(BadRequest, match="loopback"):
        check_exposure(host, Security(insecure=True))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("listen", ["", "5000", ":5000", "host:", "host:x", "host:70000"])
def test_addresses_that_are_none(listen):
    with pytest.raises(BadRequest, match="HOST:PORT"):
        split_address(listen)


def test_addresses():
    assert split_address("board:5000") == ("board", 5000)
    assert split_address("[::1]:0") == ("::1", 0)


def test_a_token(tmp_path):
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    assert read_token(path) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [("0123456789abcdef", 0o644, "others may read"), ("short", 0o600, "at least 16")],
)
def test_tokens_that_are_none(tmp_path, text, mode, says):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(BadRequest, match=says) as caught:
        read_token(path)
    assert text not in str(caught.value)


def test_a_missing_token_file(tmp_path):
    with pytest.raises(BadRequest, match="token-file"):
        read_token(tmp_path / "absent")
