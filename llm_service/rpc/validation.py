"""A GenerationSpec to a GenerationRequest, with every limit that the contract sets."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from askmesh.llm.v1 import generation_pb2
from google.protobuf.duration_pb2 import Duration
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from llm_service.errors import LlmError, Reason, Violation
from llm_service.generation_request import GenerationRequest

MAX_CHARACTERS: Final = 1_000_000
_MAX_MESSAGES: Final = 256
_MAX_MODEL: Final = 256
_MAX_STOPS: Final = 16
_MAX_STOP: Final = 256
_MAX_OUTPUT_TOKENS: Final = 1_000_000
_MAX_SECONDS: Final = 24 * 3600
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_MESSAGES: Final[dict[int, type[BaseMessage]]] = {
    generation_pb2.ROLE_SYSTEM: SystemMessage,
    generation_pb2.ROLE_USER: HumanMessage,
    generation_pb2.ROLE_ASSISTANT: AIMessage,
}
# Each field of Sampling: the test that a value passes, and the limits in words. A NaN passes none.
_SAMPLING: Final[dict[str, tuple[Callable[[float], bool], str]]] = {
    "temperature": (lambda value: 0 <= value <= 2, "0 to 2"),
    "top_p": (lambda value: 0 < value <= 1, "more than 0, at most 1"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "-2 to 2"),
    "seed": (lambda _: True, "any"),
}


def is_request_id(text: str) -> bool:
    """Whether the text may name a generation."""
    return _REQUEST_ID.fullmatch(text) is not None


def checked(spec: generation_pb2.GenerationSpec | None) -> GenerationRequest:
    """The request, or LlmError INVALID_FIELD with each field that breaks its limits; None is a spec that is not set."""
    violations = [Violation("spec", "must be set")] if spec is None else list(_violations(spec))
    if spec is None or violations:
        first = violations[0]
        more = f", and {len(violations) - 1} more" if len(violations) > 1 else ""
        raise LlmError(Reason.INVALID_FIELD, f"{first.field} {first.description}{more}", violations=violations)
    return GenerationRequest(
        messages=[_MESSAGES[message.role](message.content) for message in spec.messages],
        model=spec.model,
        sampling={name: getattr(spec.sampling, name) for name in _SAMPLING if spec.sampling.HasField(name)},  # type: ignore[arg-type]
        stop=list(spec.stop),
        max_output_tokens=spec.max_output_tokens if spec.HasField("max_output_tokens") else None,
        time_limit=_seconds(spec.time_limit) if spec.HasField("time_limit") else None,
        answer_prefix=spec.answer_prefix,
    )


def _violations(spec: generation_pb2.GenerationSpec) -> Iterator[Violation]:
    if spec.request_id and not is_request_id(spec.request_id):
        yield Violation("spec.request_id", "must be 1 to 128 characters out of A-Z a-z 0-9 . _ : -")
    if len(spec.model) > _MAX_MODEL:
        yield Violation("spec.model", f"must have at most {_MAX_MODEL} characters, has {len(spec.model)}")
    yield from _of_messages(spec.messages)
    for name, (allowed, limits) in _SAMPLING.items():
        if spec.sampling.HasField(name) and not allowed(getattr(spec.sampling, name)):  # type: ignore[arg-type]
            yield Violation(f"spec.sampling.{name}", f"must be {limits}")
    yield from _of_stops(spec.stop)
    yield from _of_limits(spec)
    if len(spec.answer_prefix) > MAX_CHARACTERS:
        yield Violation("spec.answer_prefix", f"must have at most {MAX_CHARACTERS} characters")
    elif spec.answer_prefix != spec.answer_prefix.rstrip():
        yield Violation("spec.answer_prefix", "must not end with white space")


def _of_messages(messages: Sequence[generation_pb2.Message]) -> Iterator[Violation]:
    if not 1 <= len(messages) <= _MAX_MESSAGES:
        yield Violation("spec.messages", f"must have 1 to {_MAX_MESSAGES} messages, has {len(messages)}")
        return
    for index, message in enumerate(messages):
        if message.role not in _MESSAGES:
            yield Violation(f"spec.messages[{index}].role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT")
        if not 1 <= len(message.content) <= MAX_CHARACTERS:
            yield Violation(
                f"spec.messages[{index}].content",
                f"must have 1 to {MAX_CHARACTERS} characters, has {len(message.content)}",
            )
    total = sum(len(message.content) for message in messages)
    if total > MAX_CHARACTERS:
        yield Violation("spec.messages", f"must have at most {MAX_CHARACTERS} characters together, have {total}")
    if messages[-1].role in _MESSAGES and messages[-1].role != generation_pb2.ROLE_USER:
        yield Violation(f"spec.messages[{len(messages) - 1}].role", "must be ROLE_USER in the last message")


def _of_stops(stops: Sequence[str]) -> Iterator[Violation]:
    if len(stops) > _MAX_STOPS:
        yield Violation("spec.stop", f"must have at most {_MAX_STOPS} strings, has {len(stops)}")
    for index, stop in enumerate(stops[:_MAX_STOPS]):
        if not 1 <= len(stop) <= _MAX_STOP:
            yield Violation(f"spec.stop[{index}]", f"must have 1 to {_MAX_STOP} characters, has {len(stop)}")


def _of_limits(spec: generation_pb2.GenerationSpec) -> Iterator[Violation]:
    if spec.HasField("max_output_tokens") and not 1 <= spec.max_output_tokens <= _MAX_OUTPUT_TOKENS:
        yield Violation("spec.max_output_tokens", f"must be 1 to {_MAX_OUTPUT_TOKENS}")
    if spec.HasField("time_limit") and not 0 < _seconds(spec.time_limit) <= _MAX_SECONDS:
        yield Violation("spec.time_limit", "must be more than 0 and at most 24 hours")


def _seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
