"""Server-sent events, as far as a stream of completions uses them."""

from typing import Final

# The largest event seen is some kilobytes; a server that sends more without an end has gone wrong.
MAX_EVENT_BYTES: Final = 1 << 20


class EventTooLargeError(Exception):
    """An event is larger than MAX_EVENT_BYTES."""


class SseParser:
    """Turns bytes, cut anywhere, into the data of events.

    Lines end with LF or CRLF; comments and every field but ``data`` are dropped; several ``data`` lines of one event
    are joined by LF. A lone CR, which no model server sends, does not end a line.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the beginning of a line whose end has not come yet
        self._data: list[bytes] = []  # the data lines of an event whose end has not come yet
        self._held = 0

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that these bytes complete. Raises EventTooLargeError."""
        first, *rest = received.split(b"\n")
        self._line.append(first)
        self._hold(len(first))
        if not rest:
            return []
        *lines, tail = (b"".join(self._line), *rest)
        self._line = [tail]
        events: list[bytes] = []
        for line in lines:
            self._take(line.removesuffix(b"\r"), events)
        self._held = len(tail) + sum(map(len, self._data))
        self._hold(0)
        return events

    def finish(self) -> list[bytes]:
        """The data of an event that the stream's end cut before its empty line, if any."""
        events: list[bytes] = []
        for line in (b"".join(self._line).removesuffix(b"\r"), b""):
            self._take(line, events)
        self._line = []
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            events.append(b"\n".join(self._data))
            self._data.clear()

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MAX_EVENT_BYTES:
            raise EventTooLargeError
