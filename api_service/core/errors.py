"""What a question is refused or fails with, in terms of no protocol. Each door says it in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

UNAVAILABLE: Final = "The database does not answer at the moment. Nothing is wrong with your request: repeat it later."
ERASURE_UNAVAILABLE: Final = (
    "Redis, which can hold a copy of the answer, does not answer at the moment. Nothing was erased: repeat it later."
)


class ErrorCode(StrEnum):
    """What is wrong, in words that programs compare."""

    FORBIDDEN = "forbidden"
    QUESTION_NOT_FOUND = "question_not_found"
    RATE_LIMITED = "rate_limited"
    BUDGET_SPENT = "budget_spent"
    TOO_MANY_QUESTIONS = "too_many_questions"
    TOO_MANY_STREAMS = "too_many_streams"
    BACKLOG_FULL = "backlog_full"
    DATABASE_UNAVAILABLE = "database_unavailable"
    ERASURE_UNAVAILABLE = "erasure_unavailable"


class InvalidField(NamedTuple):
    """A field that is wrong, what is wrong with it, and what to do about it."""

    field: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``limit``: the most of a minute. ``remaining`` of it is left, and all of it in ``reset_seconds``."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a caller has left of the limits that it has."""

    requests: RateLimit | None = None
    tokens: RateLimit | None = None


UNLIMITED: Final = RateLimits()


class ServiceError(Exception):
    """Ends what a caller wants.

    ``detail`` is a sentence for people; it may be empty where ``fields`` say everything. ``retry_after``: whole seconds
    until it may succeed.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str = "",
        *,
        fields: Sequence[InvalidField] = (),
        retry_after: int | None = None,
        rate_limits: RateLimits = UNLIMITED,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.fields = fields
        self.retry_after = retry_after
        self.rate_limits = rate_limits


def question_not_found() -> ServiceError:
    """Whether there is none, or it is another owner's: callers are told the same."""
    return ServiceError(ErrorCode.QUESTION_NOT_FOUND, "You have no question with this id.")
