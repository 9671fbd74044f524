"""A question as its reader sees it."""

from api_service.answers.phrases import FAILURES, NOT_READY, answer_text
from api_service.answers.schemas import AnswerError, AnswerResponse, Usage
from api_service.core.languages import Language, language_of
from models.identity import model_id
from questions.reading import Question


def answer_response(question: Question, language: Language | None) -> AnswerResponse:
    """The question with sentences in this language; None: in its own."""
    reason = question.error_reason
    return AnswerResponse(
        question_id=question.id,
        status=question.state,
        answer_text=answer_text(question, language or language_of(question.language), NOT_READY),
        model=model_id(question.written_by) if question.written_by else None,
        finish_reason=question.finish_reason,
        usage=_usage(question),
        error=AnswerError(reason=reason, detail=FAILURES[reason]) if reason else None,
        replayed_as=question.replayed_as,
        created_at=question.created_at,
        finished_at=question.finished_at,
    )


def _usage(question: Question) -> Usage | None:
    usage = question.usage
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    # Attempts that broke off have counts too, which are not those of an answer.
    if question.text is None or (prompt is None and completion is None):
        return None
    total = None if prompt is None or completion is None else prompt + completion
    return Usage(**usage.by_column(), total_tokens=total)
