"""Server-sent events: how an answer is written for EventSource, and for whoever reads as it does."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from api_service.answers.responses import answer_response
from api_service.core.following import Ended, FollowEvent, Restarted, StatusChanged
from api_service.core.languages import Language
from api_service.core.live_text import Delta
from api_service.core.stream_cursor import StreamCursor

MEDIA_TYPE: Final = "text/event-stream"
# A comment, so that neither proxies nor readers take a silent stream for a dead one.
_HEARTBEAT: Final = b":\n\n"
_HEARTBEAT_SECONDS: Final = 8.0
# EventSource comes back so long after a stream broke off; left to itself, some wait for 5 s.
_RETRY: Final = b"retry: 1000\n\n"


def sse_event(name: str, data: Any, event_id: StreamCursor | None = None) -> bytes:
    """A server-sent event with JSON as its data, and nothing in it that any reader takes for the end of a line."""
    # Some readers end lines where Python's str.splitlines does.
    line = orjson.dumps(data).replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    line = line.replace(b"\xc2\x85", b"\\u0085")
    return b"%sevent: %s\ndata: %s\n\n" % (
        b"id: %s\n" % str(event_id).encode() if event_id else b"",
        name.encode(),
        line,
    )


_RESTARTED: Final = sse_event("restarted", {})


class SseEncoder:
    """Writes the events of one reader. What others are sent too is encoded once: it stands with the event."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        language: Language | None,
        asked: Mapping[str, bool] | None = None,
        idle_seconds: float = _HEARTBEAT_SECONDS,
    ) -> None:
        """``language``: of sentences. ``asked``: goes with the first event."""
        self.idle_seconds = idle_seconds
        self._language = language
        self._asked = asked
        self._has_begun = False

    def encode(self, event: FollowEvent) -> bytes:
        """The event with its name, its data and, where a reader may go on after it, its id."""
        match event:
            case Delta():
                return encode_delta(event)
            case StatusChanged():
                return self._status(event)
            case Restarted():
                return _RESTARTED
            case Ended():
                return self._finished(event)
        return _HEARTBEAT

    def _status(self, event: StatusChanged) -> bytes:
        if self._has_begun:
            return _encode_status(event, {})
        self._has_begun = True
        # What has ended says so itself; whoever has asked is told the id of its question in any case.
        if event.state.is_final and self._asked is None:
            return _RETRY
        return _RETRY + _encode_status(event, self._asked or {})

    def _finished(self, event: Ended) -> bytes:
        key = SseEncoder, self._language, event.cursor
        if (encoded := event.encoded.get(key)) is None:
            answer = answer_response(event.question, self._language).model_dump(mode="json", exclude_none=True)
            encoded = event.encoded[key] = sse_event(event.question.state, answer, event.cursor)
        return encoded


def encode_delta(delta: Delta) -> bytes:
    """One copy for all readers of it."""
    if (encoded := delta.encoded.get(SseEncoder)) is None:
        encoded = delta.encoded[SseEncoder] = sse_event("delta", {"text": delta.text}, delta.cursor)
    return encoded


def _encode_status(status: StatusChanged, asked: Mapping[str, bool]) -> bytes:
    data: dict[str, object] = {"question_id": status.question_id, "status": status.state, **asked}
    if status.estimate is not None:
        data["queue_position"] = status.estimate.position
        if status.estimate.seconds is not None:
            data["estimated_wait_seconds"] = status.estimate.seconds
    return sse_event("status", data)
