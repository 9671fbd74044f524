import pytest
from askmesh.llm.v1 import errors_pb2
from askmesh.llm.v1 import generation_pb2 as pb
from askmesh.llm.v1.generation_service_pb2 import Completed
from askmesh_client.errors import STATUS_ERRORS, GenerationError
from grpc import StatusCode

from owners.token_counts import TokenCounts
from questions.states import ErrorReason, FinishReason, State
from worker_service.answering.outcomes import (
    Broken,
    Failed,
    Outcome,
    Refused,
    finish_of_end,
    finish_of_error,
    name,
    outcome_of_error,
    outcome_of_finish,
    pause,
)

# The status of each reason, as the comments of GenerationService list them, and what becomes of a question that
# the engine had not accepted.
REASONS: dict[str, tuple[StatusCode, type[Outcome]]] = {
    "INVALID_FIELD": (StatusCode.INVALID_ARGUMENT, Failed),
    "CONTEXT_TOO_LONG": (StatusCode.INVALID_ARGUMENT, Failed),
    "REQUEST_REFUSED": (StatusCode.INVALID_ARGUMENT, Failed),
    "MODEL_NOT_FOUND": (StatusCode.NOT_FOUND, Refused),
    "CANNOT_CONTINUE": (StatusCode.FAILED_PRECONDITION, Broken),
    "TOO_MANY_GENERATIONS": (StatusCode.RESOURCE_EXHAUSTED, Refused),
    "MODEL_SERVER_OVERLOADED": (StatusCode.RESOURCE_EXHAUSTED, Refused),
    "MODEL_SERVER_UNAVAILABLE": (StatusCode.UNAVAILABLE, Refused),
    "GENERATION_INTERRUPTED": (StatusCode.UNAVAILABLE, Refused),
    "DRAINING": (StatusCode.UNAVAILABLE, Refused),
    "MODEL_SERVER_DENIED": (StatusCode.PERMISSION_DENIED, Refused),
    "MODEL_SERVER_INVALID": (StatusCode.INTERNAL, Broken),
    "TIME_LIMIT": (StatusCode.DEADLINE_EXCEEDED, Refused),
    "DEFECT": (StatusCode.INTERNAL, Broken),
}


def error(
    code: StatusCode,
    reason: errors_pb2.ErrorReason.ValueType = errors_pb2.ERROR_REASON_UNSPECIFIED,
    *,
    engine_started: bool = False,
    retry_after: float | None = None,
) -> GenerationError:
    return STATUS_ERRORS[code](
        "may quote the question", code=code, reason=reason, engine_started=engine_started, retry_after=retry_after
    )


def test_every_reason_of_the_contract_is_known() -> None:
    assert {f"ERROR_REASON_{reason}" for reason in REASONS} == set(errors_pb2.ErrorReason.keys()) - {
        "ERROR_REASON_UNSPECIFIED"
    }


@pytest.mark.parametrize("reason", REASONS)
def test_before_the_engine_accepted(reason: str) -> None:
    code, outcome = REASONS[reason]
    number = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")

    assert isinstance(outcome_of_error(error(code, number)), outcome)


@pytest.mark.parametrize("code", STATUS_ERRORS)
@pytest.mark.parametrize("engine_started", [False, True])
def test_every_status_has_an_outcome_and_none_fails_a_question_without_a_reason(
    code: StatusCode, engine_started: bool
) -> None:
    outcome = outcome_of_error(error(code, engine_started=engine_started))

    assert not isinstance(outcome, Failed)
    if engine_started:
        assert not isinstance(outcome, Refused)


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.CANCELLED])
def test_after_the_engine_accepted_it_was_an_attempt(code: StatusCode) -> None:
    assert isinstance(outcome_of_error(error(code, engine_started=True, retry_after=2.0)), Broken)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (errors_pb2.ERROR_REASON_CONTEXT_TOO_LONG, ErrorReason.CONTEXT_TOO_LONG),
        (errors_pb2.ERROR_REASON_REQUEST_REFUSED, ErrorReason.REQUEST_REFUSED),
        (errors_pb2.ERROR_REASON_INVALID_FIELD, ErrorReason.REQUEST_REFUSED),
    ],
)
def test_what_can_never_succeed_fails_with_its_reason(
    reason: errors_pb2.ErrorReason.ValueType, expected: ErrorReason
) -> None:
    assert outcome_of_error(error(StatusCode.INVALID_ARGUMENT, reason)) == Failed(expected)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (StatusCode.RESOURCE_EXHAUSTED, 20.0),
        (StatusCode.UNAVAILABLE, None),
        (StatusCode.NOT_FOUND, None),
        (StatusCode.PERMISSION_DENIED, None),
    ],
)
@pytest.mark.parametrize("engine_started", [False, True])
def test_only_who_is_overloaded_says_when_to_come_again(
    code: StatusCode, expected: float | None, engine_started: bool
) -> None:
    outcome = outcome_of_error(error(code, engine_started=engine_started, retry_after=20.0))

    assert isinstance(outcome, Refused | Broken)
    assert outcome.retry_after == expected


def test_the_deadline_ends_an_answer_and_is_no_failure() -> None:
    passed = error(StatusCode.DEADLINE_EXCEEDED, engine_started=True)

    assert finish_of_error(passed, continued=False) is FinishReason.TIME_LIMIT
    assert finish_of_error(error(StatusCode.DEADLINE_EXCEEDED), continued=True) is None


@pytest.mark.parametrize("reason", [errors_pb2.ERROR_REASON_CONTEXT_TOO_LONG, errors_pb2.ERROR_REASON_INVALID_FIELD])
def test_text_that_leaves_no_room_to_go_on_ends_the_answer(reason: errors_pb2.ErrorReason.ValueType) -> None:
    too_long = error(StatusCode.INVALID_ARGUMENT, reason)

    assert finish_of_error(too_long, continued=True) is FinishReason.OUTPUT_LIMIT
    assert finish_of_error(too_long, continued=False) is None


@pytest.mark.parametrize(
    ("finish_reason", "state", "reason"),
    [
        (pb.FINISH_REASON_STOP, State.COMPLETED, FinishReason.STOP),
        (pb.FINISH_REASON_OUTPUT_LIMIT, State.INCOMPLETE, FinishReason.OUTPUT_LIMIT),
        (pb.FINISH_REASON_TIME_LIMIT, State.INCOMPLETE, FinishReason.TIME_LIMIT),
        (pb.FINISH_REASON_CONTENT_FILTER, State.INCOMPLETE, FinishReason.CONTENT_FILTER),
    ],
)
def test_an_end_in_good_order(finish_reason: pb.FinishReason.ValueType, state: State, reason: FinishReason) -> None:
    finish = finish_of_end(Completed(finish_reason=finish_reason))
    assert finish is reason

    usage = TokenCounts(prompt_tokens=12, completion_tokens=3, cached_prompt_tokens=0, repeated_tokens=7)
    result = outcome_of_finish(finish, "Paris", usage).result

    assert (result.state, result.finish_reason, result.text) == (state, reason, "Paris")
    assert result.usage == usage


def test_a_finish_reason_of_a_later_contract_is_not_taken_for_an_answer() -> None:
    assert finish_of_end(Completed.FromString(b"\x08\x63")) is None  # finish_reason: 99


@pytest.mark.parametrize("reason", ["INVALID_FIELD", "CONTEXT_TOO_LONG", "REQUEST_REFUSED"])
def test_names_of_errors_leave_a_message_out_that_may_quote_the_question(reason: str) -> None:
    number = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")

    assert name(error(StatusCode.INVALID_ARGUMENT, number)) == f"INVALID_ARGUMENT {reason}"
    assert name(error(StatusCode.UNAVAILABLE)) == "UNAVAILABLE"


def test_names_of_errors_say_what_llm_service_says() -> None:
    told = GenerationError(
        "the model server answers 401: check ASKMESH_MODEL_API_KEY",
        code=StatusCode.PERMISSION_DENIED,
        reason=errors_pb2.ERROR_REASON_MODEL_SERVER_DENIED,
    )

    assert name(told) == (
        "PERMISSION_DENIED MODEL_SERVER_DENIED: the model server answers 401: check ASKMESH_MODEL_API_KEY"
    )


def test_pauses_grow_to_a_limit_and_never_undercut_the_server() -> None:
    assert all(0.25 <= pause(0, None) <= 0.5 for _ in range(100))
    assert all(2 <= pause(1_000, None) <= 4 for _ in range(100))
    assert all(5 <= pause(0, 5) <= 6.25 for _ in range(100))
    assert all(60 <= pause(0, 1e9) <= 75 for _ in range(100))
