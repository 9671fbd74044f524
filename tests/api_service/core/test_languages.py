# ruff: noqa: RUF001 - Cyrillic letters are what this is about
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_service.core.languages import Language, detect, language_of, preferred

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


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", None),
        ("ru", RU),
        ("RU-ru", RU),
        ("en-GB,en;q=0.5", EN),
        ("de, ru;q=0.4, en;q=0.3", RU),
        ("en;q=0.3, ru;q=0.4", RU),
        ("ru;q=0.5, en;q=0.5", RU),
        ("en;q=0, ru;q=0.001", RU),
        ("ru;q=0", None),
        ("*", None),
        ("*, ru;q=0.1", RU),
        ("de-DE, fr;q=0.9", None),
        ("rus", None),
        ("ru_RU", None),
        ("russian", None),
        ("ru ; Q=1.000 ,en; q=0.999", RU),
        (" , ,ru,", RU),
        ("ru;q=1.001, en;q=0.1", EN),
        ("ru;q=0.1234, en;q=0.1", EN),
        ("ru;q=x, en", EN),
        ("ru-Cyrl-RU-x-private", RU),
        ("x" * 10_000 + ", ru", None),
    ],
)
def test_accept_language_is_read_as_its_standards_say(header: str, language: Language | None) -> None:
    assert preferred(header) is language


@given(st.text())
def test_no_header_is_an_error(header: str) -> None:
    assert preferred(header) in (None, EN, RU)


def test_a_language_that_a_later_release_stored_is_read_as_english() -> None:
    assert [language_of(tag) for tag in ("ru", "en", "tlh")] == [RU, EN, EN]
