"""TCP ports on this machine's own address."""

import errno
import fcntl
import os
import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from embedded.errors import EmbeddedError

HOST = "127.0.0.1"
# Linux (from 32768) and macOS (from 49152) give higher ones to whoever asks for any port, and to each connection.
FREE_PORTS: Final = range(20_000, 32_000)
"""From which `free_port` takes."""
# `free_port` makes a file for each port, which the process that has the port locks. The lock ends with the process.
_MARKS: Final = Path("/tmp") / f"askmesh-ports-{os.geteuid()}"  # noqa: S108 - a folder that all processes share
_held_marks: Final[list[int]] = []


def listen(port: int, setting: str, host: str = HOST) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises EmbeddedError that names ``setting`` where it is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    # Without it the connections of an API that has just stopped would hold the port for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise EmbeddedError(f"port {port} is in use: stop what uses it, or set {setting} to another port") from None
        if error.errno == errno.EACCES:
            raise EmbeddedError(f"port {port} is reserved for root: set {setting} to one above 1023") from None
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            raise EmbeddedError(f"ASKMESH_API_HOST: {host} is no address of this machine") from None
        raise
    return listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def free_port(among: range = FREE_PORTS) -> int:
    """A port for a server that cannot be handed a socket. No other call gives it again while this process lives.

    A port that the kernel chooses is anybody's again once its socket is closed: two parties that ask one after the
    other can get the same one, or a connection can take it before the server listens. Raises EmbeddedError.
    """
    _MARKS.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(among, len(among)):
        if (mark := _marked(port)) is not None:
            with suppress(EmbeddedError), listen(port, ""):
                _held_marks.append(mark)
                return port
            os.close(mark)
    raise EmbeddedError(f"no port from {among.start} to {among.stop - 1} is free")


def consecutive(first: int, count: int, setting: str) -> list[int]:
    """``count`` ports from ``first`` on that were free just now; ``first`` 0 takes any. Raises EmbeddedError."""
    if first == 0:
        return [free_port() for _ in range(count)]
    if first + count - 1 > 65_535:
        raise EmbeddedError(f"{count} ports from {first} on go beyond 65535: set {setting} to a lower one")
    with ExitStack() as held:
        listeners = [held.enter_context(listen(first + offset, setting)) for offset in range(count)]
        return [port_of(listener) for listener in listeners]


def _marked(port: int) -> int | None:
    """The descriptor of the port's mark, now locked by us; None where another has it."""
    mark = os.open(_MARKS / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(mark)
        return None
    return mark
