"""The sockets of connections to the model server: how they are opened, and how they gather the text of a stream.

Gathering is a fast path. A message of text costs this process and its caller 0.2 ms of CPU together, whatever it
carries, so text waits for more where many requests are open. It waits in the kernel, where it wakes nobody. When this
process gathered, each token still went through epoll, aiohttp's parser and the stream's buffer: for an answer of 256
tokens llm_service took 3.8 to 4.1 times the CPU of the model server, instead of 3.3 (decision 37).

``READ_AT_ONCE`` switches it off: each token is read when it comes, as on systems other than Linux. The tests run both.
"""

import asyncio
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

BUFFERED_BYTES: Final = 1 << 14
"""What may wait for a stream in this process, and in the kernel, when the process lags behind the model server.

Of 1,000 streams together it is 32 MB; with the defaults it would be 300 MB. A stream brings about 10 KB a second.
"""

# So much does not wait for the time; the kernel also wakes a program whose buffer is nearly full.
_GATHERED_BYTES: Final = 1 << 13
# A process finds out within a minute that the model server's machine is gone: nothing else would tell.
_KEEPALIVE: Final[Mapping[int, int]] = {
    0x10 if sys.platform == "darwin" else socket.TCP_KEEPIDLE: 30,  # Darwin's TCP_KEEPALIVE
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
}


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for aiohttp's connector, with a small buffer and keepalive."""
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFERED_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened


@dataclass(frozen=True, slots=True)
class ReadGathering:
    """How long text waits for more.

    The defaults let messages take a fifth of two cores at most: of 256 answers of 50 tokens a second, 6 tokens make a
    message. With few requests each token is sent at once. Beyond 120 ms readers would see the text stutter.
    """

    seconds_a_request: float = 0.002
    """For each request that is open."""
    most_seconds: float = 0.12
    least_requests: int = 5
    """With fewer open requests nothing waits."""

    def seconds(self, requests: int) -> float:
        """How long text waits while so many requests are open."""
        return min(requests * self.seconds_a_request, self.most_seconds)


READ_AT_ONCE: Final = ReadGathering(least_requests=sys.maxsize)
"""Nothing waits: the plain alternative."""

# Elsewhere nothing is known to say that a lowered mark wakes a program before the next token, which may take minutes.
GATHERED: Final = ReadGathering() if sys.platform == "linux" else READ_AT_ONCE
"""What this system can do."""


class LowWaterMark:
    """The amount of text (SO_RCVLOWAT) for which a stream wakes this process. The end of the connection always does.

    The model server closes the connection with the answer, because the request asks for it. From one that does not
    close it, the last text comes when the time is up.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._transport = response.connection.transport if response.connection else None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def raise_for(self, seconds: float) -> None:
        """Let the text that comes next wait, for so long at most."""
        if self._timer is not None:
            self._timer.cancel()
        self._set(_GATHERED_BYTES)
        loop = asyncio.get_running_loop()
        # All requests share the beat: what is read in one turn of the loop shares the wake-ups of gRPC and of the
        # caller, a seventh of what an answer costs both.
        self._timer = loop.call_at((loop.time() // seconds + 1) * seconds, self._set, 1)

    def close(self) -> None:
        """Let go of the socket. Without this call the connection would be closed with this object."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.detach()

    def _set(self, size: int) -> None:
        transport = self._transport
        # The descriptor of a transport that closes may be another connection's by now.
        if transport is None or transport.is_closing():
            return
        if self._socket is None:
            # get_extra_info makes an object for each call, at a third of the cost of setting the option.
            self._socket = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
