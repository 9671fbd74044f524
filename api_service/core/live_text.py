"""The text of an answer as far as this process has read it: one copy, however many readers it has."""

from dataclasses import dataclass, field

from api_service.core.stream_cursor import StreamCursor

_PIECE_BYTES = 65_536
_MOST_DELTAS = 16


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text, and the place behind it. All readers who were at one place share it.

    ``encoded``: what each encoder has made of it for the first of them, by the encoder.
    """

    text: str
    cursor: StreamCursor
    encoded: dict[object, bytes] = field(default_factory=dict, compare=False)


class LiveText:
    """Text that grows. Readers hold offsets into it and nothing else, so that a slow one costs no memory."""

    __slots__ = ("_deltas", "data", "epoch")

    def __init__(self, epoch: int, data: bytes = b"") -> None:
        self.epoch = epoch
        self.data = bytearray(data)
        self._deltas: dict[int, Delta] = {}

    def take(self, epoch: int, offset: int, text: bytes) -> bool:
        """Add text that stands at this offset. False if what comes before it is not there yet."""
        if epoch < self.epoch:
            return True
        if epoch > self.epoch:
            self.epoch, self.data = epoch, bytearray()
            self._deltas.clear()
        known = len(self.data)
        if offset > known:
            return False
        if offset + len(text) > known:
            self.data += text[known - offset :]
            self._deltas.clear()
        return True

    def delta(self, cursor: StreamCursor) -> Delta | None:
        """What follows the cursor, at most 64 KiB of it; None: nothing yet.

        Readers at the same place share it. Raises UnicodeDecodeError for a cursor within a code point.
        """
        start = cursor.offset
        if cursor.epoch != self.epoch or start >= len(self.data):
            return None
        found = self._deltas.get(start)
        if found is None:
            end = min(start + _PIECE_BYTES, len(self.data))
            while end < len(self.data) and is_within_code_point(self.data, end):
                end -= 1
            found = Delta(self.data[start:end].decode(), StreamCursor(self.epoch, end))
            if len(self._deltas) >= _MOST_DELTAS:
                self._deltas.clear()  # those who read along are at one place, or at a few
            self._deltas[start] = found
        return found


def is_within_code_point(data: bytes | bytearray, offset: int) -> bool:
    """Whether UTF-8 has a code point on both sides of the offset. Beyond the end there is none."""
    return offset < len(data) and data[offset] & 0xC0 == 0x80
