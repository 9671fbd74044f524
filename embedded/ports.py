"""TCP ports on this machine's own address."""

import errno
import socket
from contextlib import ExitStack

from embedded.errors import EmbeddedError

HOST = "127.0.0.1"


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


def free_port() -> int:
    """A port that was free just now, for a server that cannot be handed a socket."""
    with listen(0, "") as listener:
        return port_of(listener)


def consecutive(first: int, count: int, setting: str) -> list[int]:
    """``count`` ports from ``first`` on that were free just now; ``first`` 0 takes any. Raises EmbeddedError."""
    if first and first + count - 1 > 65_535:
        raise EmbeddedError(f"{count} ports from {first} on go beyond 65535: set {setting} to a lower one")
    with ExitStack() as held:  # all at once, so that port 0 does not give the same one twice
        listeners = [held.enter_context(listen(first and first + offset, setting)) for offset in range(count)]
        return [port_of(listener) for listener in listeners]
