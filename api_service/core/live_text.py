"""The text of an answer as far as this process has read it: one copy, however many readers it has."""

from typing import Any

import orjson

from api_service.core.stream_cursor import Cursor

_PIECE_BYTES = 65_536
_MOST_EVENTS = 16


def sse_event(name: str, data: Any, event_id: Cursor | None = None) -> bytes:
    """A server-sent event with JSON as its data, and nothing in it that any reader takes for the end of a line."""
    # Some readers end lines where Python's str.splitlines does.
    line = orjson.dumps(data).replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    line = line.replace(b"\xc2\x85", b"\\u0085")
    return b"%sevent: %s\ndata: %s\n\n" % (
        b"id: %s\n" % str(event_id).encode() if event_id else b"",
        name.encode(),
        line,
    )


class LiveText:
    """Text that grows. Readers hold offsets into it and nothing else, so that a slow one costs no memory."""

    __slots__ = ("_events", "data", "epoch")

    def __init__(self, epoch: int, data: bytes = b"") -> None:
        self.epoch = epoch
        self.data = bytearray(data)
        self._events: dict[int, tuple[bytes, Cursor]] = {}

    def take(self, epoch: int, offset: int, text: bytes) -> bool:
        """Add text that stands at this offset. False if what comes before it is not there yet."""
        if epoch < self.epoch:
            return True
        if epoch > self.epoch:
            self.epoch, self.data = epoch, bytearray()
            self._events.clear()
        known = len(self.data)
        if offset > known:
            return False
        if offset + len(text) > known:
            self.data += text[known - offset :]
            self._events.clear()
        return True

    def delta(self, cursor: Cursor) -> tuple[bytes, Cursor] | None:
        """The event with what follows the cursor, at most 64 KiB of it, and the cursor behind it; None: nothing yet.

        Readers at the same place share the event. Raises UnicodeDecodeError for a cursor within a code point.
        """
        start = cursor.offset
        if cursor.epoch != self.epoch or start >= len(self.data):
            return None
        found = self._events.get(start)
        if found is None:
            end = min(start + _PIECE_BYTES, len(self.data))
            while end < len(self.data) and is_within_code_point(self.data, end):
                end -= 1
            behind = Cursor(self.epoch, end)
            found = sse_event("delta", {"text": self.data[start:end].decode()}, behind), behind
            if len(self._events) >= _MOST_EVENTS:
                self._events.clear()  # those who read along are at one place, or at a few
            self._events[start] = found
        return found


def is_within_code_point(data: bytes | bytearray, offset: int) -> bool:
    """Whether UTF-8 has a code point on both sides of the offset. Beyond the end there is none."""
    return offset < len(data) and data[offset] & 0xC0 == 0x80
