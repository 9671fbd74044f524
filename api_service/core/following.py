"""Following an answer: what becomes of its question, and its text, as events that each door encodes in its own way."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Final

from api_service.core.live_text import Delta, LiveText, is_within_code_point
from api_service.core.queue_estimate import Estimate
from api_service.core.stream_cursor import StreamCursor
from api_service.core.watch import Watch
from questions.reading import Question
from questions.states import State

# As long as a call to Redis may take: so long the text is waited for that a cursor is compared with.
_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The first event, and another whenever the state or the place in the queue has changed."""

    question_id: int
    state: State
    estimate: Estimate | None


class Restarted:
    """All deltas so far are void, and the text begins anew."""


class Idle:
    """Nothing has happened for as long as the reader wanted to be told."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event: the question as it ended.

    ``encoded``: what encoders have made of it, by what it depends on besides; one copy for all readers.
    """

    question: Question
    cursor: StreamCursor
    encoded: dict[object, bytes]


FollowEvent = StatusChanged | Delta | Restarted | Idle | Ended
_RESTARTED: Final = Restarted()
_IDLE: Final = Idle()


class InvalidCursorError(Exception):
    """The text does not have this place. The message says why."""


class Follower:
    """One reader of an answer, at its own pace. All that it holds of the text is its place there."""

    def __init__(self, watch: Watch, cursor: StreamCursor, *, resumes: bool) -> None:
        """``resumes``: the reader has read so far before, and is not at the start."""
        self._watch = watch
        self._cursor = cursor
        self._has_text = resumes

    async def check(self) -> None:
        """Compare the cursor with the text, which is waited for. Raises InvalidCursorError."""
        cursor, watch = self._cursor, self._watch
        if cursor.offset and not watch.over:
            await watch.until(lambda: watch.text_was_read, _CHECK_SECONDS)
        is_final = watch.question.state.is_final
        text = watch.final_text if is_final else watch.text
        if cursor.ended and not is_final:
            raise InvalidCursorError("is the end of an answer that has not ended")
        if text is None or cursor.epoch < text.epoch:
            return
        if is_final and (cursor.epoch > text.epoch or cursor.offset > len(text.data)):
            raise InvalidCursorError("is beyond the end of the answer")
        if cursor.epoch == text.epoch and is_within_code_point(text.data, cursor.offset):
            raise InvalidCursorError("is within a code point")

    async def events(self, idle_seconds: float) -> AsyncGenerator[FollowEvent]:
        """All until the question has ended; fewer if the reader has gone or the process stops.

        ``idle_seconds``: after so long without an event comes ``Idle``.
        """
        watch, loop = self._watch, asyncio.get_running_loop()
        told = _status_of(watch)
        yield _status(watch)
        idle_at = loop.time() + idle_seconds
        event: FollowEvent | None
        try:
            while not watch.over and (text := watch.text) is not None:
                if (now := _status_of(watch)) != told:
                    event, told = _status(watch), now
                elif (event := self._next(text)) is None and not await watch.news(idle_at - loop.time()):
                    event = _IDLE
                if event is not None:
                    yield event
                    idle_at = loop.time() + idle_seconds
            if watch.interrupted:
                return
            whole = watch.final_text
            while whole is not None and (event := self._next(whole)) is not None:
                yield event
            yield Ended(watch.question, replace(self._cursor, ended=True), watch.encoded_endings)
        except UnicodeDecodeError:
            # The cursor was ahead of the text when it was checked, and is within a code point.
            return

    def _next(self, text: LiveText) -> Delta | Restarted | None:
        """What this reader lacks of the text; None: nothing."""
        if text.epoch > self._cursor.epoch:
            void, self._has_text = self._has_text, False
            self._cursor = StreamCursor(text.epoch, 0)
            if void:
                return _RESTARTED
        delta = text.delta(self._cursor)
        if delta is not None:
            self._cursor = delta.cursor
            self._has_text = True
        return delta


def _status_of(watch: Watch) -> tuple[object, ...]:
    """What a status event is for: a new one is due when this changes."""
    state = watch.question.state
    estimate = watch.estimate if state is State.QUEUED else None
    return state, estimate and estimate.position


def _status(watch: Watch) -> StatusChanged:
    question = watch.question
    return StatusChanged(question.id, question.state, watch.estimate if question.state is State.QUEUED else None)
