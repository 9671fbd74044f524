"""A minimal HTTP/1.1 server for the cheap model server: requests in, bytes out, on uvloop."""

import asyncio
import os
from collections.abc import Callable

import httptools


class ServerConnection(asyncio.Protocol):
    """One connection. ``handle`` is called with each whole request, and answers by ``write``."""

    def __init__(
        self, handle: Callable[["ServerConnection"], None], closed: Callable[["ServerConnection"], None]
    ) -> None:
        self._handle = handle
        self._closed = closed
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()
        self.path = ""
        self.body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvloop's is no subclass
        self._transport = transport
        self._socket = transport.get_extra_info("socket").fileno()

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes, and the rest later.

        A fast path: the transport's own ``write`` costs 2 µs more, because it first gathers what a turn of the loop
        writes.
        """
        written = 0
        if not self._transport.get_write_buffer_size():
            try:  # noqa: SIM105 - contextlib.suppress costs a tenth of what a token may
                written = os.write(self._socket, data)
            except (BlockingIOError, ConnectionError):
                pass  # the transport finds the same, and knows what to do
        if written < len(data):
            self._transport.write(data[written:])

    def end(self) -> None:
        """The response is written: close, where the request asked for it."""
        if not self._stays:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost does not matter
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # What follows is called by httptools.

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.body = bytes(self._body)
        self._stays = self._parser.should_keep_alive()
        self._handle(self)


def response(body: bytes, content_type: bytes = b"application/json") -> bytes:
    """A whole response with status 200."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (content_type, len(body), body)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)
