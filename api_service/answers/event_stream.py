"""Server-sent events: what becomes of a question, and its answer as it is written."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api_service.answers.responses import answer_response
from api_service.core.languages import Language
from api_service.core.live_text import LiveText, is_within_code_point, sse_event
from api_service.core.stream_cursor import Cursor, Start
from api_service.core.watch import Watch
from api_service.core.watcher import Watcher
from api_service.http.disconnects import leaving_noticed
from questions.reading import Question
from questions.states import State

MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Language",
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}

_HEARTBEAT_SECONDS = 8.0
_HEARTBEAT: Final = b":\n\n"
# EventSource comes back so long after a stream broke off; left to itself, some wait for 5 s.
_RETRY: Final = b"retry: 1000\n\n"
_RESTARTED: Final = sse_event("restarted", {})
# Of one write. With what the connection buffers it bounds what a reader takes who does not read.
_WRITE_BYTES = 8_192
# As long as a call to Redis may take: so long the text is waited for that a cursor is compared with.
_CHECK_SECONDS = 1.0


class EventStream(Response):
    """The response that follows a question to its end, at the pace of its reader."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        watcher: Watcher,
        question: Question,
        *,
        start: Start | None = None,
        language: Language | None,
        asked: Mapping[str, bool] | None = None,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], Awaitable[object]] | None = None,
        held: AbstractContextManager[object],
    ) -> None:
        """``question``: as it was read a moment ago. ``asked``: goes with the first event.

        ``on_leave`` is called if the reader goes before the question has ended. ``held`` lasts as long as the stream.
        """
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._watcher = watcher
        self._question = question
        self._start = start
        self._cursor = start.cursor if start else Cursor(question.epoch, 0)
        self._has_text = start is not None
        self._language = language
        self._asked = asked
        self._on_leave = on_leave
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the question has ended, the reader has gone, or the process stops.

        Raises ProblemError, before anything is sent, for a cursor that the text does not have.
        """
        with self._held, self._watcher.watch(self._question, text=True) as watch:
            self._question = watch.question  # which all who read it share
            if self._start is not None:
                if self._start.cursor.ended and watch.question.state.is_final:
                    await Response(status_code=HTTPStatus.NO_CONTENT, headers=HEADERS)(scope, receive, send)
                    return
                await _check(self._start, watch)
            with leaving_noticed(receive, watch):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send_events(watch, send)
                left = watch.left
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        if left and not watch.question.state.is_final and self._on_leave is not None:
            await self._on_leave()

    async def _send_events(self, watch: Watch, send: Send) -> None:
        async with aclosing(self._events(watch)) as events:
            async for event in events:
                for at in range(0, len(event), _WRITE_BYTES):
                    part = event[at : at + _WRITE_BYTES]
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                if watch.left:
                    return

    async def _events(self, watch: Watch) -> AsyncGenerator[bytes]:
        yield _RETRY if watch.over and self._asked is None else _RETRY + _status(watch, self._asked)
        try:
            async for event in self._live(watch):
                yield event
            if not watch.interrupted:
                for event in self._ending(watch):
                    yield event
        except UnicodeDecodeError:
            # The cursor was ahead of the text when it was checked, and is within a code point.
            return

    async def _live(self, watch: Watch) -> AsyncGenerator[bytes]:
        loop = asyncio.get_running_loop()
        told = _told(watch)
        heartbeat_at = loop.time() + _HEARTBEAT_SECONDS
        while not watch.over and (text := watch.text) is not None:
            event = None
            if _told(watch) != told:
                event, told = _status(watch), _told(watch)
            else:
                event = self._next(text)
                if event is None and not await watch.news(heartbeat_at - loop.time()):
                    event = _HEARTBEAT
            if event is not None:
                yield event
                heartbeat_at = loop.time() + _HEARTBEAT_SECONDS

    def _ending(self, watch: Watch) -> Iterator[bytes]:
        text = watch.final_text
        while text is not None and (event := self._next(text)) is not None:
            yield event
        key = self._language, replace(self._cursor, ended=True)
        if (event := watch.endings.get(key)) is None:
            event = watch.endings[key] = _final(watch.question, *key)
        yield event

    def _next(self, text: LiveText) -> bytes | None:
        """What this reader lacks of the text; None: nothing."""
        if text.epoch > self._cursor.epoch:
            void, self._has_text = self._has_text, False
            self._cursor = Cursor(text.epoch, 0)
            if void:
                return _RESTARTED
        delta = text.delta(self._cursor)
        if delta is None:
            return None
        event, self._cursor = delta
        self._has_text = True
        return event


async def _check(start: Start, watch: Watch) -> None:
    cursor = start.cursor
    if cursor.offset and not watch.over:
        await watch.until(lambda: watch.text_was_read, _CHECK_SECONDS)
    text = watch.final_text if watch.question.state.is_final else watch.text
    if cursor.ended and not watch.question.state.is_final:
        raise start.refused("is the end of an answer that has not ended")
    if text is None or cursor.epoch < text.epoch:
        return
    if watch.question.state.is_final and (cursor.epoch > text.epoch or cursor.offset > len(text.data)):
        raise start.refused("is beyond the end of the answer")
    if cursor.epoch == text.epoch and is_within_code_point(text.data, cursor.offset):
        raise start.refused("is within a code point")


def _told(watch: Watch) -> tuple[object, ...]:
    """What a status event is for: a new one is due when this changes."""
    state = watch.question.state
    estimate = watch.estimate if state is State.QUEUED else None
    return state, estimate and estimate.position


def _status(watch: Watch, asked: Mapping[str, bool] | None = None) -> bytes:
    question = watch.question
    data: dict[str, object] = {"question_id": question.id, "status": question.state, **(asked or {})}
    if question.state is State.QUEUED and (estimate := watch.estimate) is not None:
        data["queue_position"] = estimate.position
        if estimate.seconds is not None:
            data["estimated_wait_seconds"] = estimate.seconds
    return sse_event("status", data)


def _final(question: Question, language: Language | None, event_id: Cursor) -> bytes:
    answer = answer_response(question, language).model_dump(mode="json", exclude_none=True)
    return sse_event(question.state, answer, event_id)
