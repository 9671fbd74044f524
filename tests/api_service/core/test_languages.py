# ruff: noqa: RUF001 - Cyrillic letters are what this is about
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_service.core.languages import Language, detect, language_of

EN, RU = Language.ENGLISH, Language.RUSSIAN


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France?", EN),
        ("Какая столица Франции?", RU),
        ("ЁЛКА", RU),
        ("Как включить git rebase?", RU),
        ("Как? rebase interactive", EN),
        ("да 12345 67890 !!!", RU),
        ("12345", EN),
        ("🙂🙂🙂", EN),
        ("", EN),
        ("Яка столиця України?", EN),
        ("Якая сталіца Беларусі? Ўчора", EN),
        ("Који је главни град Србије?", EN),
        ("Қазақстанның астанасы қай қала?", EN),
        ("ما هي عاصمة فرنسا؟", EN),
        ("Quelle est la capitale de la Russie — «Москва»?", EN),
        ("フランスの首都はどこですか", EN),
        ("е\u0308лка и чаи\u0306", RU),  # ё and й, each as a letter and a mark
    ],
)
def test_russian_is_told_from_other_languages(text: str, language: Language) -> None:
    assert detect(text) is language


def test_a_long_text_is_judged_by_its_beginning() -> None:
    assert detect("Почему " * 200 + "english " * 2_000) is RU


@given(st.text())
def test_every_text_has_a_language(text: str) -> None:
    assert detect(text) in Language


def test_a_language_that_a_later_release_stored_is_read_as_english() -> None:
    assert [language_of(tag) for tag in ("ru", "en", "tlh")] == [RU, EN, EN]
