"""The gRPC server: ports, threads, health."""

from concurrent import futures
from typing import Any, List, Optional, Tuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from paretrim_worker.errors import BadRequest
from paretrim_worker.security import (
    Security,
    TokenInterceptor,
    check_exposure,
    read_token,
    server_credentials,
    split_address,
)
from paretrim_worker.service import SERVICE, UPLOADS_AT_ONCE, DeviceService, Worker

MESSAGE_BYTES = 2 * 1024 * 1024
"""Chunks are at most 1 MiB; nothing else that comes in is large."""

INFO_CALLS = 8
HEALTH_CALLS = 2
STOP_SECONDS = 5.0

OPTIONS: Tuple[Tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second worker on the port is an error, not half the calls
    # A client that was cut off is noticed, and its measurement ends.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # an engine is built for minutes without a word
    # The client's own: without this it is cut off after the third in a silent call.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class Server:
    """A started server; `stop` ends it."""

    def __init__(self, listen: str, security: Security, worker: Worker) -> None:
        host, port = split_address(listen)
        check_exposure(host, security)
        interceptors: List[grpc.ServerInterceptor] = (
            [TokenInterceptor(read_token(security.token_file))] if security.token_file else []
        )
        # One thread for every call that is let in, so that none waits for a thread: health, which
        # has threads of its own, and info answer while measurements queue.
        calls = 1 + worker.limits.queue + UPLOADS_AT_ONCE + INFO_CALLS
        self._server = grpc.server(
            futures.ThreadPoolExecutor(calls, thread_name_prefix="call"),
            interceptors=interceptors,
            options=OPTIONS,
            maximum_concurrent_rpcs=calls + HEALTH_CALLS,
        )
        self._server.add_generic_rpc_handlers((DeviceService(worker).handler(),))
        self._health = HealthService()
        worker.sandbox.on_start = self._health.tell
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._bind(host, port, server_credentials(security))
        self._server.start()

    def stop(self) -> None:
        """Say so in the health, let calls end for a moment, then end them."""
        self._health.enter_graceful_shutdown()
        self._server.stop(STOP_SECONDS).wait()
        self._health.close()

    def _bind(self, host: str, port: int, credentials: Optional[grpc.ServerCredentials]) -> int:
        address = "{}:{}".format("[{}]".format(host) if ":" in host else host, port)
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise BadRequest("cannot listen on {}: {}".format(address, error)) from None
        if not bound:
            raise BadRequest("cannot listen on {}".format(address))
        return int(bound)


class HealthService(health.HealthServicer):  # type: ignore[misc]
    """gRPC's health service with threads of its own.

    grpc takes a handler's pool from an attribute of its function; the library sets it for Watch
    only.
    """

    def __init__(self) -> None:
        self._pool = futures.ThreadPoolExecutor(HEALTH_CALLS, thread_name_prefix="health")
        super().__init__(experimental_non_blocking=True, experimental_thread_pool=self._pool)
        type(self).Check.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        self.tell(works=True)

    def tell(self, works: bool) -> None:
        """Say from now on whether measurements can be made, of the service and of the server."""
        answer = health_pb2.HealthCheckResponse
        for name in (SERVICE, health.OVERALL_HEALTH):
            self.set(name, answer.SERVING if works else answer.NOT_SERVING)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See the library."""
        return super().Check(request, context)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)
