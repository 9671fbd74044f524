"""Why a call fails. rpc/statuses.py gives each reason its gRPC status."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_MESSAGE: Final = 200


class Reason(enum.Enum):
    """The contract's ErrorReason; what each means stands there."""

    INVALID_FIELD = enum.auto()
    CONTEXT_TOO_LONG = enum.auto()
    REQUEST_REFUSED = enum.auto()
    MODEL_NOT_FOUND = enum.auto()
    CANNOT_CONTINUE = enum.auto()
    TOO_MANY_GENERATIONS = enum.auto()
    MODEL_SERVER_OVERLOADED = enum.auto()
    MODEL_SERVER_UNAVAILABLE = enum.auto()
    GENERATION_INTERRUPTED = enum.auto()
    DRAINING = enum.auto()
    MODEL_SERVER_DENIED = enum.auto()
    MODEL_SERVER_INVALID = enum.auto()
    TIME_LIMIT = enum.auto()
    DEFECT = enum.auto()


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks its limits: its path in the request, as ``spec.messages[3].content``, and the limit."""

    field: str
    description: str


class LlmError(Exception):
    """A call that failed for a reason that the contract names.

    ``retry_after`` is in seconds, for the reasons that carry RetryInfo; None means the reason's own.
    ``engine_started``: the model server had accepted the generation before it refused it.
    ``why`` may be logged. It is the message, unless that quotes the model server, whose words can hold a question: only
    the messages of INVALID_FIELD, CONTEXT_TOO_LONG and REQUEST_REFUSED do.
    ``unsupported`` names the fields that llm_service adds and that the model server does not take.
    ``http_status`` is the refusal's, where there was one.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
        engine_started: bool = False,
        why: str = "",
        unsupported: frozenset[str] = frozenset(),
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = shortened(message, _MAX_MESSAGE)
        self.retry_after = retry_after
        self.violations = violations
        self.engine_started = engine_started
        self.why = why or self.message
        self.unsupported = unsupported
        self.http_status = http_status


def shortened(text: str, limit: int) -> str:
    """Text on one line, cut to at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
