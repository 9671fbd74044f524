"""Why a call fails, and the google.rpc.Status that tells the caller so.

A failure is named by a ``Reason``; ``_TOLD`` gives every reason its gRPC status, and ``to_status`` adds the details
that the contract promises. Nothing else in llm_service chooses a status.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

DOMAIN: Final = "llm.askmesh"
# Details travel in a trailer, of which a client accepts 8 KiB: the first violations are enough to go on with.
_MAX_VIOLATIONS: Final = 8
_MAX_DESCRIPTION: Final = 120
_MAX_MESSAGE: Final = 200
# A wish to stay away for days is a mistake of the model server's clock.
_MAX_RETRY_SECONDS: Final = 3600.0


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

    ``retry_after`` is in seconds, for the reasons that carry RetryInfo; None takes the reason's own.
    ``engine_started`` says that the model server had accepted the generation before it refused it.
    ``why`` is what a log may say: the message, unless that holds the model server's own words, which can quote a
    question. Only the messages of INVALID_FIELD, CONTEXT_TOO_LONG and REQUEST_REFUSED do.
    ``unsupported`` names fields that llm_service sends by itself and that the model server does not take.
    ``http_status`` is that of the refusal, where there was one.
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


@dataclass(frozen=True, slots=True)
class _Told:
    code: grpc.StatusCode
    retry_seconds: float | None = None  # RetryInfo where the failure brings no time of its own


_TOLD: Final[Mapping[Reason, _Told]] = {
    Reason.INVALID_FIELD: _Told(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.CONTEXT_TOO_LONG: _Told(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.REQUEST_REFUSED: _Told(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.MODEL_NOT_FOUND: _Told(grpc.StatusCode.NOT_FOUND),
    Reason.CANNOT_CONTINUE: _Told(grpc.StatusCode.FAILED_PRECONDITION),
    Reason.TOO_MANY_GENERATIONS: _Told(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1),
    Reason.MODEL_SERVER_OVERLOADED: _Told(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=2),
    # A model server that starts needs 2 s (llama.cpp) to minutes (vLLM).
    Reason.MODEL_SERVER_UNAVAILABLE: _Told(grpc.StatusCode.UNAVAILABLE, retry_seconds=2),
    Reason.GENERATION_INTERRUPTED: _Told(grpc.StatusCode.UNAVAILABLE, retry_seconds=1),
    Reason.DRAINING: _Told(grpc.StatusCode.UNAVAILABLE, retry_seconds=1),
    Reason.MODEL_SERVER_DENIED: _Told(grpc.StatusCode.PERMISSION_DENIED),
    Reason.MODEL_SERVER_INVALID: _Told(grpc.StatusCode.INTERNAL),
    Reason.TIME_LIMIT: _Told(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.DEFECT: _Told(grpc.StatusCode.INTERNAL),
}


def shortened(text: str, limit: int) -> str:
    """Text on one line, cut to at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status that a call which fails for this reason ends with."""
    return _TOLD[reason].code


def to_status(error: LlmError, request_id: str, *, engine_started: bool) -> status_pb2.Status:
    """The error as the contract words it; ``request_id`` names the call."""
    told = _TOLD[error.reason]
    number, _ = told.code.value
    status = status_pb2.Status(code=number, message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata={"request_id": request_id})
    if engine_started:
        info.metadata["engine_started"] = "true"
    status.details.add().Pack(info)
    if error.violations:
        status.details.add().Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=shortened(violation.description, _MAX_DESCRIPTION)
                    )
                    for violation in error.violations[:_MAX_VIOLATIONS]
                ]
            )
        )
    if error.reason is Reason.TOO_MANY_GENERATIONS:
        violation = error_details_pb2.QuotaFailure.Violation(subject="llm_service", description=error.message)
        status.details.add().Pack(error_details_pb2.QuotaFailure(violations=[violation]))
    if told.retry_seconds is not None:
        seconds = told.retry_seconds if error.retry_after is None else min(error.retry_after, _MAX_RETRY_SECONDS)
        delay = Duration()
        delay.FromMilliseconds(round(seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
