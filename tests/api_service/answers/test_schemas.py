import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api_service.answers.schemas import AskLimits, AskRequest, parse_ask
from api_service.http.dependencies import QuestionId
from api_service.http.problems import Code, ProblemError
from questions.asking import MAX_ID

LIMITS = AskLimits(question_characters=20, wait_seconds=600)
IDS: TypeAdapter[int] = TypeAdapter(QuestionId)

visible = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zs", "Zl", "Zp"]), min_size=1)
anything_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=5,
)


def ask(**fields: Any) -> AskRequest:
    return parse_ask(json.dumps({"question_text": "why?", **fields}).encode(), LIMITS)


def refused(body: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        parse_ask(body, LIMITS)
    return caught.value


@given(visible.filter(lambda text: len(text) <= LIMITS.question_characters))
def test_text_is_taken_unchanged(text: str) -> None:
    assert ask(question_text=text).question_text == text
    assert parse_ask(json.dumps({"question_text": text}, ensure_ascii=False).encode(), LIMITS).question_text == text


def test_the_limit_counts_code_points() -> None:
    assert ask(question_text="🙂" * 20).question_text == "🙂" * 20
    problem = refused(json.dumps({"question_text": "🙂" * 21}).encode())
    assert problem.errors[0].model_dump() == {
        "field": "question_text",
        "detail": "has 21 characters",
        "remedy": "shorten it to at most 20 Unicode code points",
    }


@pytest.mark.parametrize("text", ["", " ", "\r\n\t ", "\u3000", "\u200b", "\ufeff", "\x07", "\u202e \u2069"])
def test_text_that_shows_nothing_is_blank(text: str) -> None:
    assert refused(json.dumps({"question_text": text}).encode()).errors[0].detail == "is blank"


@pytest.mark.parametrize("seconds", [1, 0.5, 600, 600.0, None])
def test_a_time_to_wait_is_a_number_of_seconds(seconds: float | None) -> None:
    assert ask(max_wait_seconds=seconds).max_wait_seconds == seconds


DEEP_OR_LONG = "is nested too deeply, or has too long a number"
HALF_A_PAIR = "contains half of a surrogate pair"


def assert_named(body: bytes, code: Code, field: str, detail: str) -> None:
    problem = refused(body)
    assert (problem.code, problem.errors[0].field, problem.errors[0].detail) == (code, field, detail)
    assert all(error.remedy for error in problem.errors)
    assert problem.errors[0].remedy in problem.detail


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        (b"", "body", "is not JSON at line 1, column 1"),
        (b"{", "body", "is not JSON at line 1, column 2"),
        (b'{"question_text": "why?"} x', "body", "is not JSON at line 1, column 27"),
        (b"{'question_text': 'why?'}", "body", "is not JSON at line 1, column 2"),
        (b'{"question_text": "a\nb"}', "body", "is not JSON at line 1, column 21"),
        (b'{"question_text": "\xff"}', "body", "is not UTF-8 at byte 19"),
        (b'{"question_text": "\xed\xa0\x80"}', "body", "is not UTF-8 at byte 19"),
        ('{"question_text": "why?"}'.encode("utf-16"), "body", "is not UTF-8 at byte 0"),
        (b'{"question_text": "a", "question_text": "b"}', "question_text", "appears more than once"),
        (b'{"question_text": {"a": 1, "a": 2}}', "a", "appears more than once"),
        (b'{"max_wait_seconds": NaN}', "body", "contains NaN, which JSON does not have"),
        (b'{"max_wait_seconds": -Infinity}', "body", "contains -Infinity, which JSON does not have"),
        (b"[" * 60_000, "body", DEEP_OR_LONG),
        (b'{"a":' * 10_000, "body", DEEP_OR_LONG),
        (b"1" * 60_000, "body", DEEP_OR_LONG),
    ],
)
def test_what_is_not_json_is_refused(body: bytes, field: str, detail: str) -> None:
    assert_named(body, Code.INVALID_JSON, field, detail)


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        (b"null", "body", "is not a JSON object"),
        (b'["question_text"]', "body", "is not a JSON object"),
        (b'{"QUESTION_TEXT": "why?"}', "question_text", "is missing"),
        (b'{"question_text": null}', "question_text", "is not a string"),
        (b'{"question_text": ["why?"]}', "question_text", "is not a string"),
        (b'{"question_text": "a\\u0000"}', "question_text", "contains the character U+0000"),
        (b'{"question_text": "a\\ud83d"}', "question_text", HALF_A_PAIR),
        (b'{"question_text": "\\ude42\\ud83d"}', "question_text", HALF_A_PAIR),
        (b'{"question_text": "a", "\\ud83d": 1}', "body", HALF_A_PAIR),
        (b'{"question_text": "a", "temperature": 1}', "temperature", "is not known"),
        (b'{"question_text": "a", "priority": 1}', "priority", "is none of high, normal and low"),
        (b'{"question_text": "a", "max_wait_seconds": 0}', "max_wait_seconds", "is out of range"),
        (b'{"question_text": "a", "max_wait_seconds": 600.1}', "max_wait_seconds", "is out of range"),
        (b'{"question_text": "a", "max_wait_seconds": 1e999}', "max_wait_seconds", "is out of range"),
        (b'{"question_text": "a", "max_wait_seconds": true}', "max_wait_seconds", "is not a number"),
        (b'{"question_text": "a", "max_wait_seconds": "1"}', "max_wait_seconds", "is not a number"),
        (b'{"question_text": "a", "max_wait_seconds": 1%s}' % (b"1" * 4_000), "max_wait_seconds", "is not a number"),
    ],
)
def test_a_field_that_is_wrong_is_named(body: bytes, field: str, detail: str) -> None:
    assert_named(body, Code.INVALID_FIELD, field, detail)


def test_all_that_is_wrong_is_named_at_once_but_no_more_than_ten() -> None:
    problem = refused(json.dumps({"question_text": " ", "max_wait_seconds": 0}).encode())
    assert [error.field for error in problem.errors] == ["question_text", "max_wait_seconds"]
    many = refused(json.dumps({f"{number:0200}": 1 for number in range(200)}).encode())
    assert len(many.errors) == 10
    assert max(len(error.field) for error in many.errors) == 100


@given(anything_json)
def test_no_json_is_met_with_a_defect(content: object) -> None:
    body = json.dumps(content).encode()
    assert refused(body).code in (Code.INVALID_JSON, Code.INVALID_FIELD)


@given(st.fixed_dictionaries({"question_text": anything_json}, optional={"max_wait_seconds": anything_json}))
def test_whatever_a_field_holds_it_is_taken_or_refused(content: object) -> None:
    with suppress(ProblemError):
        assert parse_ask(json.dumps(content).encode(), LIMITS).question_text.encode()


@given(st.binary())
def test_no_bytes_are_met_with_a_defect(body: bytes) -> None:
    assert refused(body).code in (Code.INVALID_JSON, Code.INVALID_FIELD)


@given(st.integers(1, MAX_ID))
def test_ids_are_read_as_they_are_written(question_id: int) -> None:
    assert IDS.validate_python(str(question_id)) == question_id


NO_IDS = ["", "0", "-1", "+1", "01", "1.0", "1e3", "1_0", "0x1", "abc", " 1", "1 ", "1\n", str(MAX_ID + 1), "9" * 20]
ONES_OF_OTHER_SCRIPTS = ["\uff11", "\u0661", "\u00b9"]


@pytest.mark.parametrize("text", NO_IDS + ONES_OF_OTHER_SCRIPTS)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        IDS.validate_python(text)
