"""The google.rpc.Status of each reason to fail.

``_STATUSES`` gives every reason its gRPC status, ``to_status`` adds the details that the contract promises, and
``abort`` ends a call with both. Nothing else in llm_service chooses a status.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from llm_service.errors import LlmError, Reason, shortened

DOMAIN: Final = "llm.askmesh"
_DETAILS_KEY: Final = "grpc-status-details-bin"
# Details travel in a trailer, of which a client accepts 8 KiB: the first violations are enough to go on with.
_MAX_VIOLATIONS: Final = 8
_MAX_DESCRIPTION: Final = 120
# A server that asks to be left alone for days has a wrong clock.
_MAX_RETRY_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _StatusTemplate:
    code: grpc.StatusCode
    retry_seconds: float | None = None  # RetryInfo where the failure brings no time of its own


_STATUSES: Final[Mapping[Reason, _StatusTemplate]] = {
    Reason.INVALID_FIELD: _StatusTemplate(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.CONTEXT_TOO_LONG: _StatusTemplate(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.REQUEST_REFUSED: _StatusTemplate(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.MODEL_NOT_FOUND: _StatusTemplate(grpc.StatusCode.NOT_FOUND),
    Reason.CANNOT_CONTINUE: _StatusTemplate(grpc.StatusCode.FAILED_PRECONDITION),
    Reason.TOO_MANY_GENERATIONS: _StatusTemplate(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1),
    Reason.MODEL_SERVER_OVERLOADED: _StatusTemplate(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=2),
    # A model server that starts needs 2 s (llama.cpp) to minutes (vLLM).
    Reason.MODEL_SERVER_UNAVAILABLE: _StatusTemplate(grpc.StatusCode.UNAVAILABLE, retry_seconds=2),
    Reason.GENERATION_INTERRUPTED: _StatusTemplate(grpc.StatusCode.UNAVAILABLE, retry_seconds=1),
    Reason.DRAINING: _StatusTemplate(grpc.StatusCode.UNAVAILABLE, retry_seconds=1),
    Reason.MODEL_SERVER_DENIED: _StatusTemplate(grpc.StatusCode.PERMISSION_DENIED),
    Reason.MODEL_SERVER_INVALID: _StatusTemplate(grpc.StatusCode.INTERNAL),
    Reason.TIME_LIMIT: _StatusTemplate(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.DEFECT: _StatusTemplate(grpc.StatusCode.INTERNAL),
}


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status that a call which fails for this reason ends with."""
    return _STATUSES[reason].code


def to_status(error: LlmError, request_id: str, *, engine_started: bool) -> status_pb2.Status:
    """The error as the contract words it; ``request_id`` names the call."""
    template = _STATUSES[error.reason]
    number, _ = template.code.value
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
    if template.retry_seconds is not None:
        seconds = template.retry_seconds if error.retry_after is None else min(error.retry_after, _MAX_RETRY_SECONDS)
        delay = Duration()
        delay.FromMilliseconds(round(seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


async def abort(
    error: LlmError, request_id: str, context: grpc.aio.ServicerContext[Any, Any], *, engine_started: bool
) -> NoReturn:
    """End the call with the error's status."""
    status = to_status(error, request_id, engine_started=engine_started)
    await context.abort(code_of(error.reason), status.message, ((_DETAILS_KEY, status.SerializeToString()),))
