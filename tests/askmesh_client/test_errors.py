import pickle
import re

import askmesh_client
import pytest
from askmesh.llm.v1 import errors_pb2
from askmesh_client import (
    AccessDeniedError,
    CannotContinueError,
    DeadlineExceededError,
    FieldViolation,
    GenerationError,
    GenerationInterruptedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServerDefectError,
    UnavailableError,
    errors,
)
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from tests.protos.contract import reasons_by_status


def rpc_error(code: StatusCode, *details: Message, raw: bytes | None = None) -> AioRpcError:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    if raw is None:
        raw = status_pb2.Status(code=code.value[0], message="it failed", details=packed).SerializeToString()
    return AioRpcError(code, Metadata(), Metadata(("grpc-status-details-bin", raw)), details="it failed")


def info(reason: str, domain: str = errors.ERROR_DOMAIN, **metadata: str) -> Message:
    detail: Message = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)
    return detail


def test_every_status_has_an_exception() -> None:
    assert set(errors.STATUS_ERRORS) == set(StatusCode)


def test_the_table_in_the_docstring_is_the_table() -> None:
    assert errors.__doc__ is not None
    rows = dict(re.findall(r"^([A-Z_]+) +(\w+Error)\b", errors.__doc__, re.MULTILINE))
    assert rows == {code.name: kind.__name__ for code, kind in errors.STATUS_ERRORS.items()}


def test_every_exception_is_exported() -> None:
    def subclasses(kind: type[GenerationError]) -> set[str]:
        return {kind.__name__}.union(*(subclasses(child) for child in kind.__subclasses__()))

    assert subclasses(GenerationError) <= set(askmesh_client.__all__)


@pytest.mark.parametrize("code", list(StatusCode))
def test_a_status_without_details_is_understood(code: StatusCode) -> None:
    error = errors.error_from(AioRpcError(code, Metadata(), Metadata()))
    assert type(error) is errors.STATUS_ERRORS[code]
    assert error.code is code
    assert error.reason == errors_pb2.ERROR_REASON_UNSPECIFIED
    assert (error.message, error.request_id, error.field_violations) == ("", "", ())
    assert error.retry_after is None
    assert not error.engine_started
    assert str(error) == f"{code.name}: "


# What goes together in the contract, and what a caller gets for it.
REASONS: dict[errors_pb2.ErrorReason.ValueType, tuple[StatusCode, type[GenerationError]]] = {
    errors_pb2.ERROR_REASON_INVALID_FIELD: (StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    errors_pb2.ERROR_REASON_CONTEXT_TOO_LONG: (StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    errors_pb2.ERROR_REASON_REQUEST_REFUSED: (StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    errors_pb2.ERROR_REASON_MODEL_NOT_FOUND: (StatusCode.NOT_FOUND, ModelNotFoundError),
    errors_pb2.ERROR_REASON_CANNOT_CONTINUE: (StatusCode.FAILED_PRECONDITION, CannotContinueError),
    errors_pb2.ERROR_REASON_TOO_MANY_GENERATIONS: (StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
    errors_pb2.ERROR_REASON_MODEL_SERVER_OVERLOADED: (StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
    errors_pb2.ERROR_REASON_MODEL_SERVER_UNAVAILABLE: (StatusCode.UNAVAILABLE, UnavailableError),
    errors_pb2.ERROR_REASON_GENERATION_INTERRUPTED: (StatusCode.UNAVAILABLE, GenerationInterruptedError),
    errors_pb2.ERROR_REASON_DRAINING: (StatusCode.UNAVAILABLE, UnavailableError),
    errors_pb2.ERROR_REASON_MODEL_SERVER_DENIED: (StatusCode.PERMISSION_DENIED, AccessDeniedError),
    errors_pb2.ERROR_REASON_MODEL_SERVER_INVALID: (StatusCode.INTERNAL, ServerDefectError),
    errors_pb2.ERROR_REASON_TIME_LIMIT: (StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
    errors_pb2.ERROR_REASON_DEFECT: (StatusCode.INTERNAL, ServerDefectError),
}


def test_the_statuses_of_the_reasons_are_the_contracts() -> None:
    by_status: dict[str, set[str]] = {}
    for reason, (code, _) in REASONS.items():
        by_status.setdefault(code.name, set()).add(errors_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_"))
    assert by_status == {status: reasons for status, reasons in reasons_by_status().items() if reasons}


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_understood(reason: errors_pb2.ErrorReason.ValueType) -> None:
    code, kind = REASONS[reason]
    name = errors_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    started = reason == errors_pb2.ERROR_REASON_GENERATION_INTERRUPTED
    metadata = {"request_id": "r-1"} | ({"engine_started": "true"} if started else {})
    error = errors.error_from(rpc_error(code, info(name, **metadata)))
    assert type(error) is kind
    assert (error.code, error.reason, error.request_id) == (code, reason, "r-1")
    assert error.engine_started is started
    assert str(error) == f"{code.name}, {name}, request r-1: it failed"


@pytest.mark.parametrize("code", list(StatusCode))
def test_a_caller_who_saw_started_knows_more_than_the_status(code: StatusCode) -> None:
    error = errors.error_from(rpc_error(code), engine_started=True)
    assert error.engine_started
    assert not isinstance(error, UnavailableError)


def test_llm_service_knows_more_than_a_caller_who_saw_started() -> None:
    full = info("MODEL_SERVER_OVERLOADED", request_id="r-1")
    error = errors.error_from(rpc_error(StatusCode.RESOURCE_EXHAUSTED, full), engine_started=True)
    assert not error.engine_started


def test_a_reason_of_a_later_contract_leaves_the_status() -> None:
    error = errors.error_from(rpc_error(StatusCode.NOT_FOUND, info("NEW_REASON", request_id="r-1")))
    assert type(error) is ModelNotFoundError
    assert error.reason == errors_pb2.ERROR_REASON_UNSPECIFIED
    assert error.request_id == "r-1"


def test_the_details_of_another_domain_are_not_ours() -> None:
    foreign = info("DRAINING", "example.com", engine_started="true", request_id="theirs")
    error = errors.error_from(rpc_error(StatusCode.UNAVAILABLE, foreign))
    assert error.reason == errors_pb2.ERROR_REASON_UNSPECIFIED
    assert not error.engine_started
    assert error.request_id == ""


def test_details_that_cannot_be_read_do_not_hide_the_error() -> None:
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    status = status_pb2.Status(details=[broken]).SerializeToString()
    for raw in (b"\xff\xff", status):
        error = errors.error_from(rpc_error(StatusCode.INVALID_ARGUMENT, raw=raw))
        assert type(error) is InvalidRequestError
        assert error.message == "it failed"
        assert error.reason == errors_pb2.ERROR_REASON_UNSPECIFIED


def test_retry_after_and_field_violations_are_read() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="spec.model", description="too long")
    error = errors.error_from(
        rpc_error(
            StatusCode.INVALID_ARGUMENT,
            error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=250_000_000)),
            error_details_pb2.BadRequest(field_violations=[violation]),
        )
    )
    assert error.retry_after == 2.25
    assert error.field_violations == (FieldViolation("spec.model", "too long"),)


def test_an_error_survives_pickling() -> None:
    error = errors.error_from(rpc_error(StatusCode.UNAVAILABLE, info("DRAINING", request_id="r-1")))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnavailableError
    assert vars(copy) == vars(error)
