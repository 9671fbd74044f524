# ruff: noqa: RUF001 - these are Russian letters, not Latin ones gone wrong
"""The sentences that people read in ``answer_text`` while there is no answer, or where there never will be one.

They are made for each reader and never stored. A model's answer is never translated.
"""

from collections.abc import Mapping

from api_service.core.languages import Language
from questions.reading import Question
from questions.states import ErrorReason, State

ACCEPTED: Mapping[Language, str] = {
    Language.ENGLISH: "Your question is being processed. Please try again later.",
    Language.RUSSIAN: "Ваш вопрос обрабатывается. Пожалуйста, попробуйте позже.",
}
NOT_READY: Mapping[Language, str] = {
    Language.ENGLISH: "The answer is not ready yet.",
    Language.RUSSIAN: "Ответ еще не готов.",
}
ENDED: Mapping[State, Mapping[Language, str]] = {
    State.CANCELLED: {
        Language.ENGLISH: "The question was cancelled.",
        Language.RUSSIAN: "Вопрос отменен.",
    },
    State.EXPIRED: {
        Language.ENGLISH: "The question could not be answered in time. Please ask it again.",
        Language.RUSSIAN: "На вопрос не удалось ответить вовремя. Пожалуйста, задайте его еще раз.",
    },
}
FAILED: Mapping[ErrorReason, Mapping[Language, str]] = {
    ErrorReason.CONTEXT_TOO_LONG: {
        Language.ENGLISH: "The question is too long for the model. Please shorten it.",
        Language.RUSSIAN: "Вопрос слишком длинный для модели. Пожалуйста, сократите его.",
    },
    ErrorReason.REQUEST_REFUSED: {
        Language.ENGLISH: "The model server refused the question. Please ask it in another way.",
        Language.RUSSIAN: "Сервер модели отклонил вопрос. Пожалуйста, сформулируйте его иначе.",
    },
    ErrorReason.MODEL_NOT_FOUND: {
        Language.ENGLISH: "The model that should answer is not available. Please tell the operator.",
        Language.RUSSIAN: "Модель, которая должна ответить, недоступна. Пожалуйста, сообщите администратору.",
    },
    ErrorReason.POISON: {
        Language.ENGLISH: "The question could not be answered after several attempts. Please tell the operator.",
        Language.RUSSIAN: "Ответить не удалось после нескольких попыток. Пожалуйста, сообщите администратору.",
    },
    ErrorReason.NOT_STORABLE: {
        Language.ENGLISH: "The answer could not be stored. Please tell the operator.",
        Language.RUSSIAN: "Ответ не удалось сохранить. Пожалуйста, сообщите администратору.",
    },
}


def answer_text(question: Question, language: Language, live: Mapping[Language, str]) -> str:
    """The answer where there is one, else a sentence; ``live`` is the one before the end."""
    if question.text is not None:
        return question.text
    if question.error_reason is not None:
        return FAILED[question.error_reason][language]
    return ENDED.get(question.state, live)[language]


FAILURES: Mapping[ErrorReason, str] = {
    ErrorReason.CONTEXT_TOO_LONG: "Prompt and answer do not fit the model's context: shorten the question.",
    ErrorReason.REQUEST_REFUSED: "The model server refused the request, for example its content: change the question.",
    ErrorReason.MODEL_NOT_FOUND: "The model server does not serve the model: an operator must set another.",
    ErrorReason.POISON: "Each attempt to answer the question crashed a worker or the model server: tell an operator.",
    ErrorReason.NOT_STORABLE: "The database refused the answer as invalid: the logs have the reason for an operator.",
}
"""What happened, for developers."""
