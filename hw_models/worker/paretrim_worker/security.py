"""Who may talk to the worker: where it may listen, TLS, the bearer token.

Beyond loopback all of TLS, client certificates and a token are required. On loopback TLS and a
token are wanted too, unless the owner says --insecure. A token protects nothing without TLS,
because it would travel in the clear: so the options are checked together.
"""

import hmac
import ipaddress
import socket
import stat
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Tuple

import grpc

from paretrim_worker.errors import BadRequest

HEADER = "authorization"
SCHEME = "Bearer "
MIN_TOKEN_CHARACTERS = 16


class Security(NamedTuple):
    """The owner's choice; files are read once, at the start."""

    certificate: Optional[Path] = None
    key: Optional[Path] = None
    client_ca: Optional[Path] = None
    token_file: Optional[Path] = None
    insecure: bool = False


def split_address(listen: str) -> Tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        BadRequest: If it is not of that form.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise BadRequest("--listen: expected HOST:PORT, got {!r}".format(listen))
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether every address a host name stands for is loopback."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    addresses = {str(entry[4][0]).split("%")[0] for entry in found}
    return bool(addresses) and all(ipaddress.ip_address(text).is_loopback for text in addresses)


def check_exposure(host: str, security: Security) -> None:
    """Refuse to listen where the protection is too weak.

    Raises:
        BadRequest: With what is missing.
    """
    if bool(security.certificate) != bool(security.key):
        raise BadRequest("--tls-cert and --tls-key: expected both or none, got one")
    if security.client_ca and not security.certificate:
        raise BadRequest("--tls-client-ca: expected --tls-cert and --tls-key with it")
    loopback = is_loopback(host)
    if security.insecure:
        if not loopback:
            raise BadRequest("--insecure: expected a loopback address, got {!r}".format(host))
        return
    needed = {
        "--tls-cert and --tls-key": security.certificate,
        "--tls-client-ca": security.client_ca or loopback,
        "--token-file": security.token_file,
    }
    missing = [option for option, given in needed.items() if not given]
    if missing:
        raise BadRequest(
            "listening on {!r} needs {}{}".format(
                host, ", ".join(missing), " (or --insecure, on loopback only)" if loopback else ""
            )
        )


def read_token(path: Path) -> bytes:
    """Read the token.

    Raises:
        BadRequest: If the file is missing, others may read it or it is too short.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_bytes().strip()
    except OSError as error:
        raise BadRequest("--token-file: {}".format(error)) from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadRequest(
            "--token-file {}: others may read it; expected mode 600, got {:o}".format(
                path, stat.S_IMODE(mode)
            )
        )
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise BadRequest(
            "--token-file {}: expected at least {} characters, got {}".format(
                path, MIN_TOKEN_CHARACTERS, len(token)
            )
        )
    return token


def server_credentials(security: Security) -> Optional[grpc.ServerCredentials]:
    """TLS as chosen; None without."""
    if not security.certificate or not security.key:
        return None
    try:
        pair = (security.key.read_bytes(), security.certificate.read_bytes())
        client_ca = security.client_ca.read_bytes() if security.client_ca else None
    except OSError as error:
        raise BadRequest("TLS: {}".format(error)) from None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
    )


class TokenInterceptor(grpc.ServerInterceptor):
    """Lets only calls with the right bearer token through, health checks included."""

    def __init__(self, token: bytes) -> None:
        self._expected = SCHEME.encode() + token

        def refuse(request: Any, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")

        self._refuse: Any = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """See grpc.ServerInterceptor."""
        metadata = dict(handler_call_details.invocation_metadata)
        got = metadata.get(HEADER, "")
        got = got if isinstance(got, bytes) else got.encode()
        if hmac.compare_digest(got, self._expected):
            return continuation(handler_call_details)
        return self._refuse
