import grpc
import pytest
from askmesh.llm.v1.errors_pb2 import ErrorReason
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from llm_service.errors import LlmError, Reason, Violation
from llm_service.rpc.statuses import code_of, to_status

# The comment of GenerationService.Generate, word for word: reason, status, further details.
CONTRACT = {
    "INVALID_FIELD": (grpc.StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    "CONTEXT_TOO_LONG": (grpc.StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    "REQUEST_REFUSED": (grpc.StatusCode.INVALID_ARGUMENT, set()),
    "MODEL_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, set()),
    "CANNOT_CONTINUE": (grpc.StatusCode.FAILED_PRECONDITION, set()),
    "TOO_MANY_GENERATIONS": (grpc.StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure", "RetryInfo"}),
    "MODEL_SERVER_OVERLOADED": (grpc.StatusCode.RESOURCE_EXHAUSTED, {"RetryInfo"}),
    "MODEL_SERVER_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, {"RetryInfo"}),
    "GENERATION_INTERRUPTED": (grpc.StatusCode.UNAVAILABLE, {"RetryInfo"}),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, {"RetryInfo"}),
    "MODEL_SERVER_DENIED": (grpc.StatusCode.PERMISSION_DENIED, set()),
    "MODEL_SERVER_INVALID": (grpc.StatusCode.INTERNAL, set()),
    "DEFECT": (grpc.StatusCode.INTERNAL, set()),
    "TIME_LIMIT": (grpc.StatusCode.DEADLINE_EXCEEDED, set()),
}
VIOLATED = {Reason.INVALID_FIELD, Reason.CONTEXT_TOO_LONG}


def further_details(status: status_pb2.Status) -> set[str]:
    return {detail.type_url.rsplit(".", 1)[-1] for detail in status.details[1:]}


def test_reasons_are_those_of_the_contract() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert {reason.name for reason in Reason} == names == CONTRACT.keys()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_the_status_and_details_of_the_contract(reason: Reason) -> None:
    violations = [Violation("spec.messages", "too long")] if reason in VIOLATED else []
    code, details = CONTRACT[reason.name]
    status = to_status(LlmError(reason, "why", violations=violations), "id-1", engine_started=False)
    assert code_of(reason) is code
    assert (status.code, status.message) == (code.value[0], "why")
    assert further_details(status) == details
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == ("llm.askmesh", reason.name, {"request_id": "id-1"})


def test_a_started_engine_is_told() -> None:
    status = to_status(LlmError(Reason.GENERATION_INTERRUPTED, "why"), "id-1", engine_started=True)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == {"request_id": "id-1", "engine_started": "true"}


@pytest.mark.parametrize(("wished", "told"), [(None, 2), (0.25, 0.25), (17, 17), (1e9, 3600)])
def test_retry_info_is_the_model_servers_wish_within_an_hour(wished: float | None, told: float) -> None:
    error = LlmError(Reason.MODEL_SERVER_UNAVAILABLE, "why", retry_after=wished)
    retry = error_details_pb2.RetryInfo()
    assert to_status(error, "id-1", engine_started=False).details[1].Unpack(retry)
    assert retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 == told


def test_the_largest_status_fits_a_trailer() -> None:
    violations = [Violation(f"spec.messages[{index}].content", "字" * 10_000) for index in range(300)]
    error = LlmError(Reason.INVALID_FIELD, "字" * 100_000, violations=violations)
    status = to_status(error, "i" * 128, engine_started=True)
    # gRPC clients take 8 KiB of trailers; the message travels once more, percent-encoded, three bytes a byte.
    assert status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3 < 8 * 1024
