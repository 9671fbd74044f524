import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.settings import GenerationSettings
from questions.answer_key import answer_key, normalise

SETTINGS = GenerationSettings()


@pytest.mark.parametrize(
    ("one", "other"),
    [(" why? ", "why?"), ("a\r\nb", "a\nb"), ("e\u0301t\u00e9", "\u00e9t\u00e9")],
    ids=["blank ends", "line ends", "composed letters"],
)
def test_texts_that_mean_the_same_share_a_key(one: str, other: str) -> None:
    assert answer_key("me", one, SETTINGS) == answer_key("me", other, SETTINGS)


@pytest.mark.parametrize("other", ["Why?", "why ?", "why", "why?\n\nwhy?", "\uff57hy?"])
def test_texts_that_may_mean_something_else_do_not(other: str) -> None:
    assert answer_key("me", "why?", SETTINGS) != answer_key("me", other, SETTINGS)


@pytest.mark.parametrize(
    "changed",
    [
        {"model_name": "another"},
        {"system_prompt": "Be brief."},
        {"temperature": 0.5},
        {"max_output_tokens": 7},
        {"max_generation_seconds": 7},
    ],
)
def test_all_that_decides_the_answer_is_part_of_the_key(changed: dict[str, object]) -> None:
    other = SETTINGS.model_copy(update=changed)
    assert answer_key("me", "why?", SETTINGS) != answer_key("me", "why?", other)


def test_owners_do_not_share() -> None:
    assert answer_key("me", "why?", SETTINGS) != answer_key("you", "why?", SETTINGS)


@given(st.text(), st.text())
def test_owner_and_text_are_kept_apart(owner: str, words: str) -> None:
    assert answer_key(owner + "x", words, SETTINGS) != answer_key(owner, "x" + words, SETTINGS)


@given(st.text())
def test_normalising_twice_changes_nothing_more(words: str) -> None:
    assert normalise(normalise(words)) == normalise(words)
