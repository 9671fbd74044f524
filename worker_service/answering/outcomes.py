"""What becomes of a claim when its generation has ended, well or badly."""

import random
from dataclasses import dataclass
from typing import Final, TypeAlias

from askmesh.llm.v1 import errors_pb2 as pb_errors
from askmesh.llm.v1 import generation_pb2 as pb
from askmesh.llm.v1.generation_service_pb2 import Completed
from askmesh_client import (
    AccessDeniedError,
    DeadlineExceededError,
    GenerationCancelledError,
    GenerationError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
)
from grpc import StatusCode

from owners.token_counts import TokenCounts
from questions.claims import GenerationResult
from questions.states import ErrorReason, FinishReason, State
from worker_service.claiming.engine_gate import LONGEST_RETRY_AFTER_SECONDS

_FIRST_PAUSE_SECONDS: Final = 0.5
# Short, because an engine that is back is to be used at once: the gate protects it, not the pauses of questions.
_LONGEST_PAUSE_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Finished:
    """There is an answer."""

    result: GenerationResult


@dataclass(frozen=True, slots=True)
class Failed:
    """No attempt can succeed."""

    reason: ErrorReason


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine had not accepted it: it waits, and that was no attempt."""

    why: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine broke off, or could not be understood: an attempt."""

    why: str
    retry_after: float | None = None


Outcome: TypeAlias = Finished | Failed | Refused | Broken

_FINISH_REASONS: Final[dict[int, FinishReason]] = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_OUTPUT_LIMIT: FinishReason.OUTPUT_LIMIT,
    pb.FINISH_REASON_TIME_LIMIT: FinishReason.TIME_LIMIT,
    pb.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}
_PERMANENT: Final[dict[int, ErrorReason]] = {
    pb_errors.ERROR_REASON_INVALID_FIELD: ErrorReason.REQUEST_REFUSED,
    pb_errors.ERROR_REASON_CONTEXT_TOO_LONG: ErrorReason.CONTEXT_TOO_LONG,
    pb_errors.ERROR_REASON_REQUEST_REFUSED: ErrorReason.REQUEST_REFUSED,
}
# What the question alone was not, the question and the text before it are: the model's context is full.
_TOO_LONG: Final = frozenset({pb_errors.ERROR_REASON_CONTEXT_TOO_LONG, pb_errors.ERROR_REASON_INVALID_FIELD})
# Errors that say that the engine had not begun, unless the error says that it had. Refused credentials, a server of
# another contract and a model that is not served are for an operator to mend, or mend themselves: they wait as well.
# No caller chooses a model: its name is the settings'.
_REFUSALS: Final = (
    OverloadedError,
    UnavailableError,
    GenerationCancelledError,
    AccessDeniedError,
    DeadlineExceededError,
    ModelNotFoundError,
)


def finish_of_end(completed: Completed) -> FinishReason | None:
    """Why a generation ended that ended in good order; None for a reason that only a later contract knows."""
    return _FINISH_REASONS.get(completed.finish_reason)


def finish_of_error(error: GenerationError, *, continued: bool) -> FinishReason | None:
    """Why an answer is at its end although the call failed; None if it is not. ``continued``: it had a beginning."""
    if isinstance(error, DeadlineExceededError) and error.engine_started:
        # The time for an answer is over, whether llm_service could still say so or not.
        return FinishReason.TIME_LIMIT
    if continued and error.reason in _TOO_LONG:
        return FinishReason.OUTPUT_LIMIT
    return None


def outcome_of_finish(
    finish_reason: FinishReason, text: str, usage: TokenCounts, written_by: str | None = None
) -> Finished:
    """The outcome of a generation that has ended. ``written_by``: the model's identity, where it is known."""
    return Finished(
        GenerationResult(
            state=State.COMPLETED if finish_reason is FinishReason.STOP else State.INCOMPLETE,
            text=text,
            finish_reason=finish_reason,
            usage=usage,
            written_by=written_by,
        )
    )


def outcome_of_error(error: GenerationError) -> Outcome:
    """The outcome of a generation that failed before the answer was at its end."""
    if (reason := _PERMANENT.get(error.reason)) is not None:
        return Failed(reason)
    foreign = error.code is StatusCode.UNIMPLEMENTED
    # Who is overloaded says when to come again. Who is away does not know when he will be back.
    retry_after = error.retry_after if isinstance(error, OverloadedError) else None
    if not error.engine_started and (foreign or isinstance(error, _REFUSALS)):
        return Refused(name(error), retry_after)
    return Broken(name(error), retry_after)


def name(error: GenerationError) -> str:
    """Status and reason; and llm_service's message, unless it could quote a question."""
    if error.reason == pb_errors.ERROR_REASON_UNSPECIFIED:
        return error.code.name
    reason = pb_errors.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    named = f"{error.code.name} {reason}"
    return named if error.reason in _PERMANENT or not error.message else f"{named}: {error.message}"


def pause(earlier: int, retry_after: float | None) -> float:
    """Seconds until a question is due again that failed ``earlier`` times in a row before this time."""
    ceiling: float = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(earlier, 10))
    seconds = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret
    if retry_after is None:
        return seconds
    return max(seconds, min(retry_after, LONGEST_RETRY_AFTER_SECONDS) * random.uniform(1.0, 1.25))  # noqa: S311
