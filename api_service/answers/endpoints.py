"""The REST endpoints for questions."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request, Response

from api_service.answers import documentation
from api_service.answers.dependencies import Asker, Options, StartingAfter, Watching
from api_service.answers.phrases import ACCEPTED, answer_text
from api_service.answers.responses import answer_response
from api_service.answers.schemas import AnswerResponse, AskResponse
from api_service.answers.server_sent_events import SseEncoder
from api_service.answers.stream_response import StreamResponse
from api_service.authentication.dependencies import Caller, authenticate
from api_service.core.asking import Asked
from api_service.core.languages import Language
from api_service.http.dependencies import LimitsInForce, PreferredLanguage, QuestionId, Reader, WaitSeconds
from api_service.http.disconnects import disconnect_noticed
from api_service.http.rate_limit_headers import rate_limit_headers
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
    options: Options,
    asker: Asker,
    reader: Reader,
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
    seconds = 0.0 if options.wants_events else options.wait_seconds
    with ExitStack() as held:
        if options.wants_events or seconds:
            held.enter_context(limits.stream(caller))
        asked = await asker.ask(caller, options.question)
        question = asked.question
        if seconds:
            noticed = partial(disconnect_noticed, request.receive) if options.cancel_on_disconnect else None
            seconds_left = max(0.0, began + seconds - time.monotonic())
            question = await reader.wait_after_asking(question, seconds_left, noticed)
        stream = held.pop_all() if options.wants_events else None
    headers = _headers_of(asked, options.prefix)
    question_id, source = asked.accepted.question_id, asked.accepted.source
    cached, coalesced = source is Source.CACHED, source is Source.COALESCED
    if stream is not None:
        return StreamResponse(
            watcher,
            question,
            SseEncoder(options.language, {"cached": cached, "coalesced": coalesced}),
            headers=headers,
            held=stream,
            on_leave=partial(reader.leave, caller.tenant, question_id) if options.cancel_on_disconnect else None,
        )
    if question.state.is_final:
        response.status_code = HTTPStatus.OK
    _set_headers(response, question.state)
    response.headers.update(headers)
    return AskResponse(
        question_id=question_id,
        status=question.state,
        answer_text=answer_text(question, options.language or options.question.language, ACCEPTED),
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
    reader: Reader,
    wait: WaitSeconds,
    limits: LimitsInForce,
    language: PreferredLanguage,
    response: Response,
) -> AnswerResponse:
    """Return the question as it is now. A failed question is a 200 too.

    With `wait` the reply comes as soon as the question has ended, or after that many seconds (50 at the latest).
    """
    if not wait:
        return _answer(await reader.read(caller.tenant, question_id), language, response)
    with limits.stream(caller):
        return _answer(await reader.wait(caller.tenant, question_id, wait), language, response)


@router.get(
    "/answer/{question_id}/events",
    summary="Watch the answer appear",
    status_code=HTTPStatus.OK,
    response_class=Response,
    responses=documentation.EVENTS_RESPONSES,
    openapi_extra=documentation.EVENTS_REQUEST,
)
async def events(
    *,
    caller: Caller,
    question_id: QuestionId,
    reader: Reader,
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
        question = await reader.read(caller.tenant, question_id)
        return StreamResponse(watcher, question, SseEncoder(language), start=start, held=held.pop_all())


@router.post(
    "/answer/{question_id}/cancel",
    summary="Cancel a question",
    responses=documentation.CANCEL_RESPONSES,
    openapi_extra=documentation.CANCEL_REQUEST,
    response_model_exclude_none=True,
)
async def cancel(
    caller: Caller, question_id: QuestionId, reader: Reader, language: PreferredLanguage, response: Response
) -> AnswerResponse:
    """Cancel the question and return it. A question that has already ended does not change.

    The model stops writing once no question waits for the answer any more.
    """
    return _answer(await reader.cancel(caller.tenant, question_id), language, response)


def _headers_of(asked: Asked, prefix: str) -> Mapping[str, str]:
    headers = rate_limit_headers(asked.rate_limits)
    headers["Location"] = f"{prefix}/api/answer/{asked.accepted.question_id}"
    if asked.accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def _answer(question: Question, language: Language | None, response: Response) -> AnswerResponse:
    _set_headers(response, question.state)
    return answer_response(question, language)


def _set_headers(response: Response, state: State) -> None:
    # The sentences differ from reader to reader, and what is not final changes from second to second.
    response.headers["Vary"] = "Accept-Language"
    response.headers["Cache-Control"] = "no-store"
    if not state.is_final:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
