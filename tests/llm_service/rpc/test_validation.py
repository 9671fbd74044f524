import math
from collections.abc import Callable

import pytest
from askmesh.llm.v1.generation_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, GenerationSpec, Message, Sampling
from google.protobuf.duration_pb2 import Duration
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from llm_service.errors import LlmError, Reason
from llm_service.generation_request import GenerationRequest
from llm_service.rpc.validation import checked
from tests.llm_service.conftest import ask

DAY = 24 * 3600


def conversation(*messages: tuple[int, str]) -> GenerationSpec:
    return GenerationSpec(
        messages=[Message(role=role, content=content) for role, content in messages]  # type: ignore[arg-type]
    )


def refused_fields(spec: GenerationSpec | None) -> list[str]:
    with pytest.raises(LlmError) as caught:
        checked(spec)
    assert caught.value.reason is Reason.INVALID_FIELD
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (None, "spec"),
        (GenerationSpec(), "spec.messages"),
        (conversation(*[(ROLE_USER, "a")] * 257), "spec.messages"),
        (conversation((ROLE_USER, "a" * 600_000), (ROLE_USER, "a" * 400_001)), "spec.messages"),
        (conversation((0, "a"), (ROLE_USER, "b")), "spec.messages[0].role"),
        (conversation((9, "a"), (ROLE_USER, "b")), "spec.messages[0].role"),
        (conversation((ROLE_USER, "a"), (ROLE_ASSISTANT, "b")), "spec.messages[1].role"),
        (conversation((ROLE_SYSTEM, "a")), "spec.messages[0].role"),
        (conversation((ROLE_SYSTEM, "a"), (ROLE_USER, "")), "spec.messages[1].content"),
        (ask("a", request_id="a b"), "spec.request_id"),
        (ask("a", request_id="ä"), "spec.request_id"),
        (ask("a", request_id="a\n"), "spec.request_id"),
        (ask("a", request_id="a" * 129), "spec.request_id"),
        (ask("a", model="m" * 257), "spec.model"),
        (ask("a", stop=["x"] * 17), "spec.stop"),
        (ask("a", stop=["x", ""]), "spec.stop[1]"),
        (ask("a", stop=["x" * 257]), "spec.stop[0]"),
        (ask("a", max_output_tokens=0), "spec.max_output_tokens"),
        (ask("a", max_output_tokens=1_000_001), "spec.max_output_tokens"),
        (ask("a", time_limit=Duration()), "spec.time_limit"),
        (ask("a", time_limit=Duration(seconds=-1)), "spec.time_limit"),
        (ask("a", time_limit=Duration(seconds=1, nanos=-2_000_000_000)), "spec.time_limit"),
        (ask("a", time_limit=Duration(seconds=DAY, nanos=1_000_000)), "spec.time_limit"),
        (ask("a", time_limit=Duration(seconds=2**62)), "spec.time_limit"),
        (ask("a", answer_prefix="The "), "spec.answer_prefix"),
        (ask("a", answer_prefix="The\u3000"), "spec.answer_prefix"),
        (ask("a", answer_prefix="\n"), "spec.answer_prefix"),
        (ask("a", answer_prefix="a" * 1_000_001), "spec.answer_prefix"),
        (ask("a", sampling=Sampling(temperature=-0.1)), "spec.sampling.temperature"),
        (ask("a", sampling=Sampling(temperature=2.1)), "spec.sampling.temperature"),
        (ask("a", sampling=Sampling(temperature=math.nan)), "spec.sampling.temperature"),
        (ask("a", sampling=Sampling(top_p=0)), "spec.sampling.top_p"),
        (ask("a", sampling=Sampling(top_p=math.inf)), "spec.sampling.top_p"),
        (ask("a", sampling=Sampling(presence_penalty=-2.1)), "spec.sampling.presence_penalty"),
        (ask("a", sampling=Sampling(frequency_penalty=2.1)), "spec.sampling.frequency_penalty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_beyond_its_limit_is_named(spec: GenerationSpec | None, field: str) -> None:
    assert refused_fields(spec) == [field]


@pytest.mark.parametrize(
    ("spec", "read"),
    [
        (conversation(*[(ROLE_USER, "a")] * 256), lambda request: len(request.messages) == 256),
        (conversation((ROLE_USER, "ä" * 1_000_000)), lambda request: len(request.messages[0].content) == 1_000_000),
        (ask("\x00 \u202e"), lambda request: request.messages[0].content == "\x00 \u202e"),
        (ask("a", request_id="aZ09._:-" * 16), lambda _: True),
        (ask("a", model="м" * 256), lambda request: request.model == "м" * 256),
        (ask("a", stop=["x" * 256] * 16), lambda request: len(request.stop) == 16),
        (ask("a", max_output_tokens=1), lambda request: request.max_output_tokens == 1),
        (ask("a", max_output_tokens=1_000_000), lambda request: request.max_output_tokens == 1_000_000),
        (ask("a", time_limit=Duration(nanos=1)), lambda request: 0 < request.time_limit < 0.001),
        (ask("a", time_limit=Duration(seconds=DAY)), lambda request: request.time_limit == DAY),
        (ask("a", answer_prefix="x" * 1_000_000), lambda request: len(request.answer_prefix) == 1_000_000),
        (ask("a", sampling=Sampling(temperature=0)), lambda request: request.sampling == {"temperature": 0}),
        (ask("a", sampling=Sampling(top_p=1)), lambda request: request.sampling == {"top_p": 1}),
        (
            ask("a", sampling=Sampling(presence_penalty=-2)),
            lambda request: request.sampling == {"presence_penalty": -2},
        ),
        (
            ask("a", sampling=Sampling(frequency_penalty=2)),
            lambda request: request.sampling == {"frequency_penalty": 2},
        ),
        (ask("a", sampling=Sampling(seed=-(2**63))), lambda request: request.sampling == {"seed": -(2**63)}),
    ],
)
def test_a_field_at_its_limit_is_taken(spec: GenerationSpec, read: Callable[[GenerationRequest], bool]) -> None:
    assert read(checked(spec))


def test_unset_fields_leave_everything_to_the_model_server() -> None:
    request = checked(ask("a"))
    assert request == GenerationRequest(messages=[HumanMessage("a")], sampling={}, stop=[])


def test_every_wrong_field_is_named_at_once() -> None:
    spec = ask("", model="m" * 257, stop=[""], answer_prefix=" ")
    assert refused_fields(spec) == ["spec.model", "spec.messages[0].content", "spec.stop[0]", "spec.answer_prefix"]


def test_roles_become_the_messages_of_langchain() -> None:
    request = checked(conversation((ROLE_SYSTEM, "s"), (ROLE_USER, "u"), (ROLE_ASSISTANT, "a"), (ROLE_USER, "v")))
    assert request.messages == [SystemMessage("s"), HumanMessage("u"), AIMessage("a"), HumanMessage("v")]
