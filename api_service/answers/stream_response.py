"""The response that follows a question to its end, in whichever form its encoder writes."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from http import HTTPStatus
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api_service.answers.stream_start import StreamStart
from api_service.core.following import Follower, FollowEvent, InvalidCursorError
from api_service.core.stream_cursor import StreamCursor
from api_service.core.watch import Watch
from api_service.core.watcher import Watcher
from api_service.http.disconnects import disconnect_noticed
from questions.reading import Question

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Language",
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}
# Of one write. With what the connection buffers it bounds what a reader takes who does not read.
_WRITE_BYTES = 8_192


class StreamEncoder(Protocol):
    """Writes events in one form, for one reader."""

    @property
    def media_type(self) -> str:
        """The form."""
        ...

    @property
    def idle_seconds(self) -> float:
        """After so long without an event, ``Idle`` is to be written."""
        ...

    def encode(self, event: FollowEvent) -> bytes:
        """The event; empty where this form does not tell it."""
        ...


class StreamResponse(Response):
    """Follows a question at the pace of its reader."""

    def __init__(
        self,
        watcher: Watcher,
        question: Question,
        encoder: StreamEncoder,
        *,
        start: StreamStart | None = None,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], Awaitable[object]] | None = None,
        held: AbstractContextManager[object],
    ) -> None:
        """``question``: as it was read a moment ago.

        ``on_leave`` is called if the reader goes before the question has ended. ``held`` lasts as long as the stream.
        """
        super().__init__(headers={**HEADERS, **(headers or {})}, media_type=encoder.media_type)
        del self.headers["content-length"]
        self._watcher = watcher
        self._question = question
        self._encoder = encoder
        self._start = start
        self._cursor = start.cursor if start else StreamCursor(question.epoch, 0)
        self._on_leave = on_leave
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the question has ended, the reader has gone, or the process stops.

        Raises ProblemError, before anything is sent, for a cursor that the text does not have.
        """
        with self._held, self._watcher.watch(self._question, text=True) as watch:
            self._question = watch.question  # which all who read it share
            follower = Follower(watch, self._cursor, resumes=self._start is not None)
            if self._start is not None:
                if self._start.cursor.ended and watch.question.state.is_final:
                    await Response(status_code=HTTPStatus.NO_CONTENT, headers=HEADERS)(scope, receive, send)
                    return
                try:
                    await follower.check()
                except InvalidCursorError as error:
                    raise self._start.refused(str(error)) from None
            with disconnect_noticed(receive, watch.leave):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send_events(follower, watch, send)
                left = watch.left
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        if left and not watch.question.state.is_final and self._on_leave is not None:
            await self._on_leave()

    async def _send_events(self, follower: Follower, watch: Watch, send: Send) -> None:
        encode = self._encoder.encode
        async with aclosing(follower.events(self._encoder.idle_seconds)) as events:
            async for event in events:
                data = encode(event)
                for at in range(0, len(data), _WRITE_BYTES):
                    part = data[at : at + _WRITE_BYTES]
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                if watch.left:
                    return
