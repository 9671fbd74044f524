"""How far a reader has got in an answer."""

import re
from dataclasses import dataclass
from typing import Self

# An epoch is a PostgreSQL integer; an offset has at most as many digits as the largest integer of JSON.
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,15})(:end)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StreamCursor:
    """``offset`` bytes of UTF-8 were read of the text of this epoch; ``ended``: the final event was read too.

    Written as ``epoch:offset``, and ``epoch:offset:end`` for the final event. The two differ so that a reader who got
    all of the text but not the final event still gets that one.
    """

    epoch: int
    offset: int
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The cursor that was written like this; None for anything else."""
        match = _CURSOR.fullmatch(text)
        return cls(int(match[1]), int(match[2]), match[3] is not None) if match else None

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}{':end' if self.ended else ''}"
