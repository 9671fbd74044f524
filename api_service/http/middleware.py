"""What surrounds every request: its id, the limit of its body, and the answer to a defect."""

import asyncio
import logging
import re
import uuid
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_service.http.problems import DEFECT, Code, problem_response
from foundation.correlation import set_request_id
from foundation.logs import trace_of

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_LINGER_SECONDS = 2.0


class RequestIds:
    """Names each request in its response, its problem and the log; answers 500 where an exception got this far.

    The caller's X-Request-ID is taken if it is 1 to 128 characters out of A-Z a-z 0-9 . _ : - and replaced otherwise,
    so that it can neither forge a log line nor fill one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex.encode()
        scope["state"]["request_id"] = request_id.decode()
        set_request_id(request_id.decode())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            words = (request_id.decode(), scope["method"], scope["path"])
            name = type(error).__qualname__
            logger.error("request %s, %s %s, met a defect: %s", *words, name, extra=trace_of(error))  # noqa: TRY400
            logger.debug("request %s, %s %s, met a defect", *words, exc_info=True)
            if started:
                # uvicorn logs it and breaks the connection off, so that half a response is not taken for one.
                raise BrokenOffError("a response is broken off: the lines before say why") from None
            await problem_response(scope, Code.INTERNAL_ERROR, DEFECT)(scope, receive, send_with_id)


class BrokenOffError(Exception):
    """Ends a response that has begun. It stands for an error whose message nobody may log."""


class HeadRequests:
    """Answers HEAD wherever GET works: with the status and headers of GET, and without its body.

    A stream ends there, as for a reader who has left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class _BodyTooLargeError(Exception):
    pass


class BodyLimit:
    """Refuses a body of more than ``max_bytes`` with 413: by its Content-Length, or as soon as more has arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = _header(scope, b"content-length")
        if length is not None and int(length) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise _BodyTooLargeError
            return message

        try:
            await self._app(scope, receive_within_limit, send)
        except _BodyTooLargeError:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"The body may have at most {self._max_bytes:,} bytes. Shorten it."
        response = problem_response(scope, Code.BODY_TOO_LARGE, detail, headers={"Connection": "close"})
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # To close while the client still sends resets the connection, which can destroy the response before it is
        # read. So the rest is thrown away for a moment, until the client has read the response and stops.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _header(scope: Scope, name: bytes) -> bytes | None:
    for header, value in scope["headers"]:
        if header == name:
            found: bytes = value
            return found
    return None
