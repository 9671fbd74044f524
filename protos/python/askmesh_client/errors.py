"""The errors of llm_service as exceptions, told apart by what a caller does about them.

===================  ================================  ==========================================================
status               exception                         what to do
===================  ================================  ==========================================================
INVALID_ARGUMENT     InvalidRequestError               do not repeat the request; ``field_violations`` says why
FAILED_PRECONDITION  InvalidRequestError               as above
 CANNOT_CONTINUE     CannotContinueError               ask again without answer_prefix
OUT_OF_RANGE         InvalidRequestError               as above
NOT_FOUND            ModelNotFoundError                ask for a model that list_models() names
RESOURCE_EXHAUSTED   OverloadedError (Transient)       wait ``retry_after``, then ask again
UNAVAILABLE          UnavailableError (Transient)      wait ``retry_after``, then ask again
 engine started      GenerationInterruptedError (T.)   ask again; what was written is lost, or goes on by answer_prefix
ABORTED              GenerationInterruptedError (T.)   as above
CANCELLED            GenerationCancelledError (T.)     a server or proxy gave the call up; ask again
DEADLINE_EXCEEDED    DeadlineExceededError             ask again with more time, or give up
PERMISSION_DENIED    AccessDeniedError                 tell an operator: llm_service's or your credentials are refused
UNAUTHENTICATED      AccessDeniedError                 as above
INTERNAL             ServerDefectError                 report it; a repetition may or may not fail again
UNKNOWN              ServerDefectError                 as above
DATA_LOSS            ServerDefectError                 as above
UNIMPLEMENTED        ServerDefectError                 the server does not know the contract: check address and version
ALREADY_EXISTS       ServerDefectError                 the contract has no such status
OK                   ServerDefectError                 a stream ended in good order, but without Completed
===================  ================================  ==========================================================

``except TransientError`` catches what may pass by itself. Cancelling your own task is no such error: it raises
asyncio.CancelledError, as everywhere.
"""

from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc.aio
from askmesh.llm.v1 import errors_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import StatusCode

ERROR_DOMAIN: Final = "llm.askmesh"
"""The domain of each google.rpc.ErrorInfo that llm_service sends."""

_DETAILS_KEY: Final = "grpc-status-details-bin"
_UNSPECIFIED: Final = errors_pb2.ERROR_REASON_UNSPECIFIED
_REASONS: Final = {name.removeprefix("ERROR_REASON_"): number for name, number in errors_pb2.ErrorReason.items()}
_REASON_NAMES: Final = {number: name for name, number in _REASONS.items()}


class FieldViolation(NamedTuple):
    """One field of the request that breaks its limits."""

    field: str
    """Path of the field, such as spec.messages[0].content."""
    description: str
    """What is wrong with it."""


class GenerationError(Exception):
    """A call failed. The subclass says what to do; the attributes say what happened."""

    code: StatusCode
    """The call's status."""
    reason: errors_pb2.ErrorReason.ValueType
    """Why, as the contract lists it. Unspecified: the status comes from gRPC or a proxy, or from a later contract."""
    message: str
    """The server's explanation, for developers; may be empty."""
    retry_after: float | None
    """Seconds after which the server asks to try again. None: it does not say."""
    field_violations: tuple[FieldViolation, ...]
    """The fields that were refused, if any."""
    engine_started: bool
    """Whether the model server had accepted the generation, which makes the failure an attempt.

    llm_service's error or a Started event says so. False also where nothing does: in generate() the connection broke,
    or the deadline passed."""
    request_id: str
    """Names the generation in llm_service's logs. Empty: llm_service did not make the error."""

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode = StatusCode.UNKNOWN,
        reason: errors_pb2.ErrorReason.ValueType = _UNSPECIFIED,
        retry_after: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        engine_started: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.field_violations = field_violations
        self.engine_started = engine_started
        self.request_id = request_id

    def __str__(self) -> str:
        parts = [self.code.name]
        if self.reason != _UNSPECIFIED:
            parts.append(_REASON_NAMES[self.reason])
        if self.request_id:
            parts.append(f"request {self.request_id}")
        return f"{', '.join(parts)}: {self.message}"


class InvalidRequestError(GenerationError):
    """The request can never succeed as it is."""


class CannotContinueError(InvalidRequestError):
    """The model server cannot go on from answer_prefix."""


class ModelNotFoundError(GenerationError):
    """The model server does not serve this model now."""


class TransientError(GenerationError):
    """The same request may succeed later."""


class OverloadedError(TransientError):
    """llm_service or the model server has as much to do as it may."""


class UnavailableError(TransientError):
    """llm_service or the model server cannot be reached, is starting or shutting down; nothing was generated."""


class GenerationInterruptedError(TransientError):
    """The generation broke off after the model server had accepted it."""


class GenerationCancelledError(TransientError):
    """A server or proxy cancelled the call, not its caller."""


class DeadlineExceededError(GenerationError):
    """The time for the call passed, or the request's time_limit before any text."""


class AccessDeniedError(GenerationError):
    """Credentials are refused; an operator must act."""


class ServerDefectError(GenerationError):
    """Something broke its contract: llm_service, the model server, or what stands between."""


STATUS_ERRORS: Final[dict[StatusCode, type[GenerationError]]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    StatusCode.FAILED_PRECONDITION: InvalidRequestError,
    StatusCode.OUT_OF_RANGE: InvalidRequestError,
    StatusCode.NOT_FOUND: ModelNotFoundError,
    StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    StatusCode.UNAVAILABLE: UnavailableError,
    StatusCode.ABORTED: GenerationInterruptedError,
    StatusCode.CANCELLED: GenerationCancelledError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.PERMISSION_DENIED: AccessDeniedError,
    StatusCode.UNAUTHENTICATED: AccessDeniedError,
    StatusCode.INTERNAL: ServerDefectError,
    StatusCode.UNKNOWN: ServerDefectError,
    StatusCode.DATA_LOSS: ServerDefectError,
    StatusCode.UNIMPLEMENTED: ServerDefectError,
    StatusCode.ALREADY_EXISTS: ServerDefectError,
    StatusCode.OK: ServerDefectError,
}
"""The exception for each status; ``error_from`` refines two of them."""


def error_from(error: grpc.aio.AioRpcError, *, engine_started: bool = False) -> GenerationError:
    """The exception for a failed call, with what its google.rpc.Status says.

    engine_started: a Started event has come. llm_service's own word counts for more: a model server can accept a
    generation and then say that its queue is full.
    """
    status = _status(error)
    info = _detail(status, error_details_pb2.ErrorInfo)
    ours = info.domain == ERROR_DOMAIN
    reason = _REASONS.get(info.reason, _UNSPECIFIED) if ours else _UNSPECIFIED
    if ours:
        engine_started = info.metadata.get("engine_started") == "true"
    retry = _detail(status, error_details_pb2.RetryInfo)
    bad_request = _detail(status, error_details_pb2.BadRequest)

    kind = STATUS_ERRORS[error.code()]
    if kind is UnavailableError and engine_started:
        kind = GenerationInterruptedError
    elif reason == errors_pb2.ERROR_REASON_CANNOT_CONTINUE:
        kind = CannotContinueError
    return kind(
        error.details() or "",
        code=error.code(),
        reason=reason,
        retry_after=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        if retry.HasField("retry_delay")
        else None,
        field_violations=tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations),
        engine_started=engine_started,
        request_id=info.metadata.get("request_id", "") if ours else "",
    )


def _status(error: grpc.aio.AioRpcError) -> Any:
    """The google.rpc.Status of a failed call; empty if there is none that can be read."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            with suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _detail(status: Any, kind: Any) -> Any:
    """The first detail of this kind; empty if there is none that can be read."""
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            with suppress(DecodeError):
                return kind.FromString(detail.value)
    return kind()
