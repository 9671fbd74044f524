"""The HTTP server around the application."""

import logging
import math
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from api_service.http.protocol import limited
from foundation import garbage
from foundation.open_files import allow_files
from foundation.readiness import notify_ready
from foundation.settings import ApiSettings

logger = logging.getLogger(__name__)

# Longer than a proxy keeps idle connections to it (nginx: 60 s): otherwise the proxy sends a request just when this
# side closes, and the request is lost.
_KEEP_ALIVE_SECONDS = 75
# A client that takes nothing of what it is sent for so long is dropped; the cursor of its stream stays valid.
_STALLED_SECONDS = 60
# Text comes a few kB at a time; over 100 ms of network this still carries 300 kB/s.
_SEND_BUFFER_BYTES = 32 * 1024
_SPARE_FILES = 256


class ApiServer(uvicorn.Server):
    """uvicorn that tells whoever started it when it listens, and whoever waits in it when it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Run the lifespan's beginning, listen, say so."""
        for listening in sockets or []:
            # The system would let each connection have 4 MB, which count as this process's in a container.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_SECONDS * 1_000)
        await super().startup(sockets=sockets)
        for server in self.servers:
            for listening in server.sockets:
                logger.info("listening on %s", listening.getsockname())
        garbage.settle()
        notify_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams and long polls, whose clients go on elsewhere; then as uvicorn does."""
        if (watcher := self.lifespan.state.get("watcher")) is not None:
            watcher.end()
        await super().shutdown(sockets)


def create_server(app: FastAPI, drain_seconds: float, max_connections: int) -> ApiServer:
    """A server that, told to stop, takes no more connections and gives requests ``drain_seconds`` to end."""
    return ApiServer(
        uvicorn.Config(
            app,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            http=limited(max_connections),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(drain_seconds),
        )
    )


def listen(settings: ApiSettings) -> socket.socket:
    """The socket that the supervisor has handed on, or a new one. Raises OSError."""
    if settings.api_listen_fd is not None:
        return socket.socket(fileno=settings.api_listen_fd)
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    return socket.create_server((settings.api_host, settings.api_port), family=family, backlog=2048)


def run(app: FastAPI, listening: socket.socket, drain_seconds: float, max_connections: int) -> None:
    """Serve until SIGTERM or SIGINT, then return."""
    allow_files(max_connections + _SPARE_FILES, "ASKMESH_MAX_CONNECTIONS")
    # uvicorn stops in good order and then raises the signal again, by which the process would end as if killed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    create_server(app, drain_seconds, max_connections).run(sockets=[listening])
