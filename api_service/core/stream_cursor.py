"""How far a reader has got in an answer, and where one wants to go on."""

import re
from dataclasses import dataclass
from typing import Self

from api_service.http.problems import Code, FieldError, ProblemError

# An epoch is a PostgreSQL integer; an offset has at most as many digits as the largest integer of JSON.
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,15})(:end)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
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


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader wants to go on, and what it said so with: a header or a parameter of the query."""

    cursor: Cursor
    field: str
    code: Code

    @classmethod
    def parse(cls, text: str, field: str, code: Code) -> Self:
        """Raises ProblemError."""
        if (cursor := Cursor.parse(text)) is None:
            raise _refused(field, code, "is not a cursor")
        return cls(cursor, field, code)

    def refused(self, detail: str) -> ProblemError:
        """The problem to end the request with."""
        return _refused(self.field, self.code, detail)


def _refused(field: str, code: Code, detail: str) -> ProblemError:
    remedy = "send the id of the last event that you read, or leave it out to read from the start"
    return ProblemError.of_fields(code, [FieldError(field=field, detail=detail, remedy=remedy)])
