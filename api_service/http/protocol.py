"""uvicorn's HTTP protocol with the limits that it leaves to a proxy, for where there is none in front."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api_service.http.problems import MEDIA_TYPE, Code, problem

# As nginx has them in front: see nginx/askmesh/rest.conf.
HEAD_SECONDS: Final = 10.0
# Above the 20 s after which an endpoint gives a body up, which is told; this is for bodies that nobody reads.
BODY_SECONDS: Final = 30.0
MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
# What a reader that does not read may have waiting here, and about twice as much within the system.
MOST_BUFFERED_BYTES: Final = 8 * 1024

_NOT_HTTP = "The request is not valid HTTP. Send it with an HTTP client such as curl."
_TOO_LARGE = f"The head may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES:,} bytes. Shorten it."
_TOO_MANY = "This process holds as many connections as it may. Repeat the request later."


class _HeadTooLargeError(Exception):
    pass


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    The head of a request must arrive within 10 s and have at most 32 KiB and 100 headers, the body must arrive within
    30 s, and of the connections beyond ``max_connections`` each is told so and closed. uvicorn alone waits for ever for
    any number of connections, and keeps whatever head they send.

    An offer to change the protocol (``Upgrade``, as Java's HttpClient offers h2c with each request) is ignored, as
    RFC 9110, section 7.8, lets a server do: the request is answered by HTTP/1.1. The parser alone takes the body of
    such a request for the new protocol, and uvicorn gets none.
    """

    max_connections: int
    """Of this process at a time; a subclass sets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = False
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None
        self._in_repeated_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop, as all below."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MOST_BUFFERED_BYTES)
        if len(self.connections) > self.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, _TOO_MANY)
        else:
            self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)

    def _parse(self, data: bytes) -> bytes:
        """What is left of the data after a request that offered to change the protocol; else nothing."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if framing := self._framing():
                # Its body is still to come: another parser reads it, which is told of the head without the offer.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                connection = b"keep-alive" if self.cycle.keep_alive else b"close"
                head = [b"%s: %s\r\n" % header for header in (*framing, (b"Connection", connection))]
                self._in_repeated_head = True
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(head) + b"\r\n")
                self._in_repeated_head = False
            return data[offered.args[0] :]
        return b""

    def _framing(self) -> list[tuple[bytes, bytes]]:
        """The headers that say how long the body is; none if there is no body."""
        return [header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]

    def on_message_begin(self) -> None:
        """Called by the parser, as those below."""
        if self._in_repeated_head:
            return
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._expect_within(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        if not self._in_repeated_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_repeated_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._in_repeated_head:
            return
        if self._head_is_too_large():
            raise _HeadTooLargeError  # by which the parser stops, and what called it asks for a 400
        self._in_head = False
        self._expect_within(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return  # Only for this parser: _parse goes on with the body.
        self._expect_nothing()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """As a problem. The parser's own message says nothing that helps."""
        if self._in_head and self._head_is_too_large():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, _NOT_HTTP)

    def _head_is_too_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._expect_nothing()
        if self.transport.is_closing():
            return
        if self._nobody_replies():
            code = Code.SERVICE_UNAVAILABLE if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Code.HTTP_ERROR
            content = problem(code, detail, uuid.uuid4().hex)
            content.status = status
            body = content.model_dump_json().encode()
            head = (
                f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
                f"Cache-Control: no-store\r\nX-Request-ID: {content.request_id}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _nobody_replies(self) -> bool:
        """Whether no other response is due before this one, or has begun in its place."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return not (self._in_head or self.pipeline or self.cycle.response_started)

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._late = self.loop.call_later(seconds, self._end, seconds)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self, seconds: float) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # A response is being written, to this request or to the one before; what writes it has its own limits.
            self._expect_within(seconds)
        elif not self.transport.is_closing():
            self.transport.close()


def limited(max_connections: int) -> type[LimitedProtocol]:
    """The protocol for a process that may hold so many connections."""
    return type("LimitedProtocol", (LimitedProtocol,), {"max_connections": max_connections})
