from dataclasses import replace
from datetime import UTC, datetime

import pytest

from api_service.answers.phrases import ACCEPTED, ENDED, FAILED, FAILURES, NOT_READY, answer_text
from api_service.core.languages import Language
from owners.token_counts import NO_TOKENS
from questions.reading import Question
from questions.states import ENDED as ENDED_STATES
from questions.states import LIVE, ErrorReason, State

QUESTION = Question(
    id=1,
    answer_id=1,
    owner="local",
    language="en",
    state=State.QUEUED,
    epoch=0,
    text=None,
    written_by=None,
    finish_reason=None,
    error_reason=None,
    usage=NO_TOKENS,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    finished_at=None,
    replayed_as=None,
)


def test_the_sentences_that_were_agreed_on() -> None:
    assert ACCEPTED[Language.RUSSIAN] == "Ваш вопрос обрабатывается. Пожалуйста, попробуйте позже."
    assert NOT_READY[Language.RUSSIAN] == "Ответ еще не готов."


def test_every_language_has_every_sentence() -> None:
    assert set(ENDED) == ENDED_STATES
    assert set(FAILED) == set(FAILURES) == set(ErrorReason)
    for sentences in (ACCEPTED, NOT_READY, *ENDED.values(), *FAILED.values()):
        assert set(sentences) == set(Language)
        assert all(sentences.values())


@pytest.mark.parametrize("language", Language)
def test_no_sentence_stands_for_two_things(language: Language) -> None:
    sentences = [s[language] for s in (ACCEPTED, NOT_READY, *ENDED.values(), *FAILED.values())]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("language", Language)
def test_each_state_is_put_into_words(language: Language) -> None:
    for state in LIVE:
        assert answer_text(replace(QUESTION, state=state), language, NOT_READY) == NOT_READY[language]
    for state in ENDED_STATES:
        assert answer_text(replace(QUESTION, state=state), language, NOT_READY) == ENDED[state][language]
    for reason in ErrorReason:
        failed = replace(QUESTION, state=State.FAILED, error_reason=reason)
        assert answer_text(failed, language, NOT_READY) == FAILED[reason][language]
    assert answer_text(QUESTION, language, ACCEPTED) == ACCEPTED[language]


@pytest.mark.parametrize("text", ["Paris.", ""])
def test_an_answer_is_never_translated(text: str) -> None:
    for state in (State.COMPLETED, State.INCOMPLETE):
        assert answer_text(replace(QUESTION, state=state, text=text), Language.RUSSIAN, NOT_READY) == text
