"""Server-sent events as the WHATWG standard has them, and what servers send in their place.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from typing import Final

# The largest event seen is some kilobytes; a server that sends more without an end has gone wrong.
MAX_EVENT_BYTES: Final = 1 << 20
# Of a server that ignores ``"stream": true`` and sends its whole answer as one JSON document.
MAX_BODY_BYTES: Final = 1 << 22
# What a kept line costs beside its bytes, so that endless lines soon reach the limit.
_LINE_COST: Final = 64
_BOM: Final = b"\xef\xbb\xbf"
_DONE: Final = b"[DONE]"


class EventTooLargeError(Exception):
    """An event is larger than MAX_EVENT_BYTES, or a JSON document in place of events larger than MAX_BODY_BYTES."""


class ErrorData(bytes):
    """Data that the server itself calls an error: of an ``event: error``, or of llama.cpp's line ``error: {…}``."""

    __slots__ = ()


class SseParser:
    """Turns bytes, cut anywhere, into the data of events.

    Lines end with LF, CRLF or CR; a byte order mark before all is dropped, as are comments and the fields that say
    nothing here (``id``, ``retry``, unknown ones); several ``data`` lines of one event are joined by LF.

    Beyond the standard, which would drop them or wait for ever:

    - ``error: {…}`` is an event (older llama.cpp, ik_llama.cpp: ggml-org/llama.cpp#16109).
    - A line that begins with ``{``, ``[{`` or ``[DONE]`` is JSON outside events: a server that ignores
      ``"stream": true`` sends its answer so, on one line or on many, and others send a chunk a line.
    - Objects on ``data`` lines that follow one another without an empty line between are events of their own: one of
      them never goes on in the next, because JSON wants a comma there. ``[DONE]`` needs no empty line either.
    """

    def __init__(self) -> None:
        self.has_markup = False
        """Whether a line has come that begins as a web page does."""
        self._start: bytes | None = b""  # bytes that may be the beginning of a byte order mark; None once that is known
        self._after_cr = False
        self._line: list[bytes] = []  # the beginning of a line whose end has not come yet
        self._data: list[bytes] = []  # the data lines of an event whose end has not come yet
        self._is_error = False  # whether this event calls itself an error
        self._json: list[bytes] = []  # the lines of a JSON document outside events whose end has not come yet
        self._json_bytes = 0
        self._held = 0
        self._most = MAX_EVENT_BYTES
        self._between = False  # whether what came last ended with an event

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that these bytes complete. Raises EventTooLargeError."""
        # A fast path: most reads are whole events of a line each. It costs a third of ``_feed``, which reads anything.
        if self._between and received.startswith(b"data: ") and received.endswith(b"\n\n") and b"\r" not in received:
            plain = received[6:-2].split(b"\n\ndata: ")
            if received.count(b"\n") == 2 * len(plain):
                return plain
        return self._feed(received)

    def _feed(self, received: bytes) -> list[bytes]:
        self._between = False
        if self._start is not None:
            received = self._begin(received)
        if self._after_cr or b"\r" in received:
            received = self._with_line_feeds(received)
        first, *rest = received.split(b"\n")
        self._line.append(first)
        self._hold(len(first))
        if not rest:
            return []
        *lines, tail = (b"".join(self._line), *rest)
        self._line = [tail]
        events: list[bytes] = []
        for line in lines:
            self._take(line, events)
        if self._data and self._data[-1] == _DONE:
            self._take(b"", events)
        self._held = len(tail) + self._json_bytes + sum(map(len, self._data)) + _LINE_COST * len(self._data)
        self._hold(0)
        self._between = not (self._held or self._is_error or self._after_cr)
        return events

    def finish(self) -> list[bytes]:
        """The data of an event that the stream's end cut before its empty line, if any."""
        events: list[bytes] = []
        for line in (b"".join(self._line), b""):
            self._take(line, events)
        if self._json:
            events.append(b"\n".join(self._json))
        self._line, self._json = [], []
        return events

    def _begin(self, received: bytes) -> bytes:
        assert self._start is not None
        start = self._start + received
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        start = start.removeprefix(_BOM)
        if _is_json(start.lstrip()):
            self._most = MAX_BODY_BYTES
        return start

    def _with_line_feeds(self, received: bytes) -> bytes:
        if self._after_cr and received:
            self._after_cr = False
            received = received.removeprefix(b"\n")
        if received.endswith(b"\r"):
            self._after_cr = True
        return received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            if self._data and _is_another(self._data[-1], value):
                self._take(b"", events)
            self._data.append(value)
        elif line:
            self._take_other(line, events)
        else:
            if self._data:
                data = b"\n".join(self._data)
                events.append(ErrorData(data) if self._is_error else data)
                self._data.clear()
            self._is_error = False

    def _take_other(self, line: bytes, events: list[bytes]) -> None:
        name, _, value = line.partition(b":")
        if self._json or _is_json(line.strip()):
            self._take_json(line, events)
        elif name == b"data":
            self._data.append(b"")
        elif name == b"event":
            self._is_error = value.strip().lower() == b"error"
        elif name == b"error":
            events.append(ErrorData(value.strip()))
        elif line.lstrip().startswith(b"<"):
            self.has_markup = True

    def _take_json(self, line: bytes, events: list[bytes]) -> None:
        """A document ends on the line on which it begins, with a line that is a bracket alone, or with the stream."""
        self._json.append(line)
        self._json_bytes += len(line) + _LINE_COST
        closed = line.rstrip()
        if closed in (b"}", b"]") or (len(self._json) == 1 and closed[-1:] in (b"}", b"]")):
            events.append(b"\n".join(self._json))
            self._json, self._json_bytes = [], 0

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > self._most:
            raise EventTooLargeError


def _is_json(line: bytes) -> bool:
    """Whether a line that is no field of an event begins a JSON document."""
    return line.startswith((b"{", b"[{", _DONE)) or line == b"["


def _is_another(before: bytes, line: bytes) -> bool:
    """Whether a ``data`` line begins another event although no empty line stood before it."""
    return (before.rstrip().endswith(b"}") and line.startswith((b"{", _DONE))) or line == _DONE
