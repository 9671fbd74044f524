"""Where a reader wants a stream to go on."""

from dataclasses import dataclass
from typing import Self

from api_service.core.stream_cursor import StreamCursor
from api_service.http.problems import Code, FieldError, ProblemError


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The place, and what the reader said it with: a header or a parameter of the query."""

    cursor: StreamCursor
    field: str
    code: Code

    @classmethod
    def parse(cls, text: str, field: str, code: Code) -> Self:
        """Raises ProblemError."""
        if (cursor := StreamCursor.parse(text)) is None:
            raise _refused(field, code, "is not a cursor")
        return cls(cursor, field, code)

    def refused(self, detail: str) -> ProblemError:
        """The problem to end the request with."""
        return _refused(self.field, self.code, detail)


def _refused(field: str, code: Code, detail: str) -> ProblemError:
    remedy = "send the id of the last event that you read, or leave it out to read from the start"
    return ProblemError.of_fields(code, [FieldError(field=field, detail=detail, remedy=remedy)])
