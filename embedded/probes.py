"""How a service shows the supervisor that it is ready. Each probe takes a second at most."""

import os
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path

# Before grpc is imported: with its fork support on, children that a process using gRPC forks can die of SIGSEGV.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

from embedded.ports import HOST

# A child that does not accept yet keeps the supervisor from looking at the other children for so long.
_SECONDS = 0.5


def http_answers(port: int, path: str, host: str = HOST) -> bool:
    """Whether GET ``path`` has status 200."""
    connection = HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def grpc_serves(port: int) -> bool:
    """Whether the standard health service says SERVING for the whole server."""
    with grpc.insecure_channel(f"{HOST}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


class Notification:
    """The receiving end of sd_notify(3): a socket to which a service without a port says READY=1."""

    def __init__(self, address: Path) -> None:
        """The folder of ``address`` must exist."""
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(address))

    def arrived(self) -> bool:
        """Whether READY=1 has come since the last question."""
        try:
            return b"READY=1" in self._socket.recv(4_096).split(b"\n")
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._socket.close()
