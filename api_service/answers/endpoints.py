"""The REST endpoints for questions."""

import time
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response

from api_service.answers import documentation
from api_service.answers.answering import answer_response
from api_service.answers.event_stream import EventStream
from api_service.answers.languages import Language
from api_service.answers.phrases import ACCEPTED, answer_text
from api_service.answers.schemas import AnswerResponse, AskResponse, QuestionId
from api_service.dependencies import (
    AskBody,
    Caller,
    IdempotencyKey,
    LimitsInForce,
    PreferredLanguage,
    PublicPrefix,
    Questions,
    StartingAfter,
    WaitSeconds,
    WantsEvents,
    WantsFresh,
    Watching,
    authenticate,
)
from questions.asking import Source
from questions.reading import Question
from questions.states import State

# With the dependency here, an endpoint that does not ask who calls is closed all the same.
router = APIRouter(prefix="/api", tags=["questions"], dependencies=[Depends(authenticate)])

_RETRY_AFTER_SECONDS = 1


@router.post(
    "/ask",
    summary="Ask a question",
    status_code=HTTPStatus.ACCEPTED,
    response_model=AskResponse,
    responses=documentation.ASK_RESPONSES,
    openapi_extra=documentation.ASK_REQUEST,
)
async def ask(
    *,
    caller: Caller,
    body: AskBody,
    questions: Questions,
    idempotency_key: IdempotencyKey,
    fresh: WantsFresh,
    language: PreferredLanguage,
    events: WantsEvents,
    wait: WaitSeconds,
    prefix: PublicPrefix,
    watcher: Watching,
    limits: LimitsInForce,
    request: Request,
    response: Response,
) -> AskResponse | Response:
    """Accept a question: 202, or 200 if its answer exists already.

    Once you have its id, the question is stored and gets exactly one final answer, whatever fails in between.

    With `wait` the reply comes as soon as the question has ended, with 200, or after that many seconds (50 at the
    latest), with 202. Send an `Idempotency-Key` too: if the connection breaks, the same request waits for the same
    question again.

    With `Accept: text/event-stream` the response streams the answer, as `GET /api/answer/{question_id}/events` does;
    the first event contains the `question_id`. If the stream breaks, continue there with the `id` of your last event.
    """
    began = time.monotonic()
    seconds = 0.0 if events else wait
    with ExitStack() as held:
        if events or seconds:
            held.enter_context(limits.stream(caller))
        asked = await questions.ask(caller, body, idempotency_key, fresh=fresh)
        if seconds:
            receive = request.receive if body.cancel_on_disconnect else None
            seconds_left = max(0.0, began + seconds - time.monotonic())
            asked = await questions.wait_for_end(asked, seconds_left, receive)
        stream = held.pop_all() if events else None
    accepted, question = asked.accepted, asked.question
    cached, coalesced = accepted.source is Source.CACHED, accepted.source is Source.COALESCED
    if stream is not None:
        leave = partial(questions.leave, caller.tenant, accepted.question_id)
        headers = {"Location": prefix + f"/api/answer/{accepted.question_id}", **asked.headers}
        if accepted.replayed:
            headers["Idempotency-Replayed"] = "true"
        return EventStream(
            watcher,
            question,
            language=language,
            asked={"cached": cached, "coalesced": coalesced},
            headers=headers,
            held=stream,
            on_leave=leave if body.cancel_on_disconnect else None,
        )
    if question.state.is_final:
        response.status_code = HTTPStatus.OK
    _set_headers(response, question.state)
    response.headers.update(asked.headers)
    response.headers["Location"] = prefix + f"/api/answer/{accepted.question_id}"
    if accepted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return AskResponse(
        question_id=accepted.question_id,
        status=question.state,
        answer_text=answer_text(question, language or asked.language, ACCEPTED),
        cached=cached,
        coalesced=coalesced,
    )


@router.get(
    "/answer/{question_id}",
    summary="Read the answer",
    responses=documentation.ANSWER_RESPONSES,
    openapi_extra=documentation.ANSWER_REQUEST,
    response_model_exclude_none=True,
)
async def answer(
    *,
    caller: Caller,
    question_id: QuestionId,
    questions: Questions,
    wait: WaitSeconds,
    limits: LimitsInForce,
    language: PreferredLanguage,
    response: Response,
) -> AnswerResponse:
    """Return the question as it is now. A failed question is a 200 too.

    With `wait` the reply comes as soon as the question has ended, or after that many seconds (50 at the latest).
    """
    if not wait:
        return _answer(await questions.read(caller.tenant, question_id), language, response)
    with limits.stream(caller):
        return _answer(await questions.wait(caller.tenant, question_id, wait), language, response)


@router.get(
    "/answer/{question_id}/events",
    summary="Watch the answer appear",
    status_code=HTTPStatus.OK,
    response_class=EventStream,
    responses=documentation.EVENTS_RESPONSES,
    openapi_extra=documentation.EVENTS_REQUEST,
)
async def events(
    *,
    caller: Caller,
    question_id: QuestionId,
    questions: Questions,
    watcher: Watching,
    limits: LimitsInForce,
    start: StartingAfter,
    language: PreferredLanguage,
) -> Response:
    """Follow the question to its end as server-sent events, from the start or from any cursor.

    The deltas since the last `restarted`, or since the start, add up to `answer_text` byte for byte. An `id` is valid
    at every process of this service, while the answer is being written and afterwards.
    """
    with ExitStack() as held:
        held.enter_context(limits.stream(caller))
        question = await questions.read(caller.tenant, question_id)
        return EventStream(watcher, question, start=start, language=language, held=held.pop_all())


@router.post(
    "/answer/{question_id}/cancel",
    summary="Cancel a question",
    responses=documentation.CANCEL_RESPONSES,
    openapi_extra=documentation.CANCEL_REQUEST,
    response_model_exclude_none=True,
)
async def cancel(
    caller: Caller, question_id: QuestionId, questions: Questions, language: PreferredLanguage, response: Response
) -> AnswerResponse:
    """Cancel the question and return it. A question that has already ended does not change.

    The model stops writing once no question waits for the answer any more.
    """
    return _answer(await questions.cancel(caller.tenant, question_id), language, response)


def _answer(question: Question, language: Language | None, response: Response) -> AnswerResponse:
    _set_headers(response, question.state)
    return answer_response(question, language)


def _set_headers(response: Response, state: State) -> None:
    # The sentences differ from reader to reader, and what is not final changes from second to second.
    response.headers["Vary"] = "Accept-Language"
    response.headers["Cache-Control"] = "no-store"
    if not state.is_final:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
