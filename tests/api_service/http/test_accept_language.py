import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_service.core.languages import Language
from api_service.http.accept_language import preferred

EN, RU = Language.ENGLISH, Language.RUSSIAN


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
