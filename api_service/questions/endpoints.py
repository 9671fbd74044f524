"""The REST endpoints for questions."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api_service.dependencies import AskBody, IdempotencyKey, Owner, PreferredLanguage, Questions, WantsFresh
from api_service.questions import documentation
from api_service.questions.languages import Language, language_of
from api_service.questions.phrases import ACCEPTED, FAILURES, NOT_READY, answer_text
from api_service.questions.schemas import AnswerError, AnswerResponse, AskResponse, QuestionId, Usage
from questions.asking import Source
from questions.reading import Question
from questions.states import State

router = APIRouter(prefix="/api", tags=["questions"])

_RETRY_AFTER_SECONDS = 1


@router.post(
    "/ask",
    summary="Ask a question",
    status_code=HTTPStatus.ACCEPTED,
    responses=documentation.ASK_RESPONSES,
    openapi_extra=documentation.ASK_REQUEST,
)
async def ask(
    *,
    body: AskBody,
    questions: Questions,
    owner: Owner,
    idempotency_key: IdempotencyKey,
    fresh: WantsFresh,
    language: PreferredLanguage,
    response: Response,
) -> AskResponse:
    """Accept a question: 202, or 200 where its answer is there already.

    Once you have its id, the question is stored and gets exactly one final answer, whatever breaks in between.
    """
    asked = await questions.ask(owner, body, idempotency_key, fresh=fresh)
    accepted, question = asked.accepted, asked.question
    state = question.state if question else State.QUEUED
    if state.is_final:
        response.status_code = HTTPStatus.OK
    _set_headers(response, state)
    response.headers["Location"] = f"/api/answer/{accepted.question_id}"
    if accepted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return AskResponse(
        question_id=accepted.question_id,
        status=state,
        answer_text=answer_text(question, language or asked.language, ACCEPTED),
        cached=accepted.source is Source.CACHED,
        coalesced=accepted.source is Source.COALESCED,
    )


@router.get(
    "/answer/{question_id}",
    summary="Read the answer",
    responses=documentation.ANSWER_RESPONSES,
    openapi_extra=documentation.ANSWER_REQUEST,
    response_model_exclude_none=True,
)
async def answer(
    question_id: QuestionId, questions: Questions, owner: Owner, language: PreferredLanguage, response: Response
) -> AnswerResponse:
    """Return the question as it is now, whatever became of it: a failed one is a 200 too."""
    return _answer(await questions.read(owner, question_id), language, response)


@router.post(
    "/answer/{question_id}/cancel",
    summary="Cancel a question",
    responses=documentation.CANCEL_RESPONSES,
    openapi_extra=documentation.ANSWER_REQUEST,
    response_model_exclude_none=True,
)
async def cancel(
    question_id: QuestionId, questions: Questions, owner: Owner, language: PreferredLanguage, response: Response
) -> AnswerResponse:
    """End the question and return it. One that has ended before stays as it is.

    The model stops writing once nobody waits for the answer any more.
    """
    return _answer(await questions.cancel(owner, question_id), language, response)


def _answer(question: Question, language: Language | None, response: Response) -> AnswerResponse:
    _set_headers(response, question.state)
    reason = question.error_reason
    return AnswerResponse(
        question_id=question.id,
        status=question.state,
        answer_text=answer_text(question, language or language_of(question.language), NOT_READY),
        finish_reason=question.finish_reason,
        usage=_usage(question),
        error=AnswerError(reason=reason, detail=FAILURES[reason]) if reason else None,
        replayed_as=question.replayed_as,
        created_at=question.created_at,
        finished_at=question.finished_at,
    )


def _usage(question: Question) -> Usage | None:
    prompt, completion = question.prompt_tokens, question.completion_tokens
    if prompt is None and completion is None:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_prompt_tokens=question.cached_prompt_tokens,
        total_tokens=None if prompt is None or completion is None else prompt + completion,
    )


def _set_headers(response: Response, state: State) -> None:
    # The sentences differ from reader to reader, and what is not final changes from second to second.
    response.headers["Vary"] = "Accept-Language"
    response.headers["Cache-Control"] = "no-store"
    if not state.is_final:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
