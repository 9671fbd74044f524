from collections.abc import Iterator
from typing import Any

import pytest
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from foundation.settings import GenerationSettings
from questions.answer_key import answer_key, normalise
from questions.requests import request_for

SETTINGS = GenerationSettings()
MODEL = "small@1"


def key(words: str = "why?", scope: str = "me", identity: str = MODEL, **changed: object) -> bytes:
    return answer_key(scope, request_for(words, SETTINGS.model_copy(update=changed)), identity)


@pytest.mark.parametrize(
    ("one", "other"),
    [(" why? ", "why?"), ("a\r\nb", "a\nb"), ("e\u0301t\u00e9", "\u00e9t\u00e9")],
    ids=["blank ends", "line ends", "composed letters"],
)
def test_texts_that_mean_the_same_share_a_key(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize("other", ["Why?", "why ?", "why", "why?\n\nwhy?", "\uff57hy?"])
def test_texts_that_may_mean_something_else_do_not(other: str) -> None:
    assert key() != key(other)


@pytest.mark.parametrize(
    "changed",
    [
        {"system_prompt": "Be brief."},
        {"system_prompt": ""},
        {"temperature": 0.5},
        {"max_output_tokens": 7},
        {"identity": "large@1"},
        {"identity": "small@2"},
        {"identity": ""},
        {"scope": "you"},
    ],
)
def test_all_that_decides_the_answer_is_part_of_the_key(changed: dict[str, Any]) -> None:
    assert key() != key(**changed)


@pytest.mark.parametrize("changed", [{"model_name": "a name for the same model"}, {"max_generation_seconds": 7}])
def test_what_decides_nothing_is_not(changed: dict[str, Any]) -> None:
    """A name is known by the identity of what answers to it; an answer that time has cut is not reused."""
    assert key() == key(**changed)


def fill(message: Message, field: Any) -> None:
    """Set one field to something that is not its default."""
    if field.message_type is None:
        kinds: dict[int, object] = {
            FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x",
            FieldDescriptor.CPPTYPE_BOOL: True,
            FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
            FieldDescriptor.CPPTYPE_FLOAT: 0.5,
        }
        value = kinds.get(field.cpp_type, 1)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    elif field.is_repeated:
        getattr(message, field.name).add()
    else:
        getattr(message, field.name).SetInParent()


def every_field(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Copies of the message's whole, each with one field more set, for all fields of all messages within it."""
    for field in message.DESCRIPTOR.fields:
        changed = type(message)()
        fill(changed, field)
        yield f"{path}{field.name}", changed
        if field.message_type is not None:
            inner = getattr(changed, field.name)
            within = inner[0] if field.is_repeated else inner
            for name, filled in every_field(within, f"{path}{field.name}."):
                whole = type(message)()
                fill(whole, field)
                target = getattr(whole, field.name)
                (target[0] if field.is_repeated else target).CopyFrom(filled)
                yield name, whole


def test_no_field_of_the_contract_is_left_out_of_the_key() -> None:
    """Whoever adds a field to GenerationSpec, or to a message in it, gets it into the key without doing anything."""
    changed = dict(every_field(GenerationSpec()))
    assert {"messages", "messages.content", "sampling.temperature", "max_output_tokens", "stop"} <= set(changed)
    keys = {name: answer_key("me", request, MODEL) for name, request in changed.items()}  # type: ignore[arg-type]
    assert len({answer_key("me", GenerationSpec(), MODEL), *keys.values()}) == len(keys) + 1


NOT_IN_THE_KEY = {
    "model_name": "A name is known by the identity of what answers to it, which is in the key.",
    "max_generation_seconds": "An answer that time has cut is not reused.",
}


def another(value: object) -> object:
    """A value of the same type."""
    match value:
        case str():
            return f"{value}x"
        case bool():
            return not value
        case int() | float():
            return value + 1
    raise TypeError(f"say here what is another {type(value).__name__}")


@pytest.mark.parametrize("name", GenerationSettings.model_fields)
def test_every_setting_of_generations_changes_the_key_or_is_known_not_to(name: str) -> None:
    """Whoever adds a setting that the model is to see, and forgets it in ``request_for``, learns so here."""
    changed = SETTINGS.model_copy(update={name: another(getattr(SETTINGS, name))})
    assert (answer_key("me", request_for("why?", changed), MODEL) == key()) is (name in NOT_IN_THE_KEY)


NOT_OF_A_QUESTION = {
    "request_id": "of one attempt",
    "model": "the settings' when it is generated: the model is in the key by its identity",
    "stop": "nobody asks for it",
    "sampling.top_p": "nobody asks for it",
    "sampling.presence_penalty": "nobody asks for it",
    "sampling.frequency_penalty": "nobody asks for it",
    "sampling.seed": "nobody asks for it",
    "time_limit": "of one attempt",
    "time_limit.seconds": "of one attempt",
    "time_limit.nanos": "of one attempt",
    "answer_prefix": "of one attempt",
}


def without_each_field(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Copies of the message's whole, each lacking one field of those that are set in it or in a message within it."""
    for field, content in message.ListFields():
        changed = type(message)()
        changed.CopyFrom(message)
        changed.ClearField(field.name)
        yield f"{path}{field.name}", changed
        if field.message_type is not None:
            for name, inner in without_each_field(content[0] if field.is_repeated else content, f"{path}{field.name}."):
                whole = type(message)()
                whole.CopyFrom(message)
                target = getattr(whole, field.name)
                (target[0] if field.is_repeated else target).CopyFrom(inner)
                yield name, whole


def test_every_field_of_the_contract_is_set_for_a_question_or_is_known_not_to_be() -> None:
    """Whoever adds a field to GenerationSpec, or to a message in it, decides here whether a question has it."""
    request = request_for("why?", SETTINGS.model_copy(update={"temperature": 0.5}))
    changed = dict(without_each_field(request))
    assert changed.keys().isdisjoint(NOT_OF_A_QUESTION)
    assert changed.keys() | NOT_OF_A_QUESTION.keys() == dict(every_field(GenerationSpec())).keys()
    for name, other in changed.items():
        assert answer_key("me", other, MODEL) != answer_key("me", request, MODEL), name  # type: ignore[arg-type]


def test_the_order_of_messages_counts() -> None:
    request = request_for("why?", SETTINGS)
    turned = GenerationSpec()
    turned.CopyFrom(request)
    del turned.messages[:]
    turned.messages.extend(reversed(request.messages))
    assert answer_key("me", request, MODEL) != answer_key("me", turned, MODEL)


def test_a_key_is_the_same_in_every_process_and_release() -> None:
    """Otherwise each upgrade, of askmesh or of protobuf, would forget all answers. A change here is one on purpose."""
    request = request_for("why?", GenerationSettings(system_prompt="Be brief.", temperature=0.5, max_output_tokens=7))
    assert answer_key("me", request, MODEL).hex() == "9b6036d32ceff66d4cbacdff463fe433f8defd2cc635d75d976e7677a97c1b11"


@given(st.text(), st.text())
def test_scope_and_text_are_kept_apart(scope: str, words: str) -> None:
    assert key(words, scope=scope + "x") != key("x" + words, scope=scope)


@given(st.text())
def test_normalising_twice_changes_nothing_more(words: str) -> None:
    assert normalise(normalise(words)) == normalise(words)
