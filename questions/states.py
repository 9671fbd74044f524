"""The states of an answer, and what of them a question's reader sees."""

from enum import StrEnum


class State(StrEnum):
    """Where an answer is. A final state never changes."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing can change any more."""
        return self not in LIVE


LIVE = frozenset({State.QUEUED, State.IN_PROGRESS})
FINAL = frozenset(State) - LIVE
ENDED = frozenset({State.CANCELLED, State.EXPIRED})
"""The states that a question can take by itself, whatever its answer does."""


class FinishReason(StrEnum):
    """Why the model stopped writing an answer."""

    STOP = "stop"
    OUTPUT_LIMIT = "output_limit"
    TIME_LIMIT = "time_limit"
    CONTENT_FILTER = "content_filter"


class ErrorReason(StrEnum):
    """Why an answer failed, in words that programs compare."""

    CONTEXT_TOO_LONG = "context_too_long"
    MODEL_NOT_FOUND = "model_not_found"
    REQUEST_REFUSED = "request_refused"
    POISON = "poison"
    NOT_STORABLE = "not_storable"
