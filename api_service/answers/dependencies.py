"""What the endpoints of this feature ask for, by type."""

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api_service.answers.schemas import AskLimits, AskRequest, parse_ask
from api_service.answers.stream_start import StreamStart
from api_service.core.asking import NewQuestion, QuestionAsker
from api_service.core.languages import Language, detect
from api_service.core.watcher import Watcher
from api_service.http.dependencies import preferred_language, public_prefix, wait_seconds
from api_service.http.problems import Code, FieldError, ProblemError
from owners.priority import Priority

_BODY_SECONDS = 20
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_NOT_ACCEPTABLE = re.compile(r"q=0(\.0{0,3})?")


class AnswersState(TypedDict):
    """What this feature needs of the application while it runs."""

    ask_limits: AskLimits
    asker: QuestionAsker
    watcher: Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """A request to ask: what is asked, and how the reply is wanted."""

    question: NewQuestion
    cancel_on_disconnect: bool
    language: Language | None
    wants_events: bool
    wait_seconds: float
    prefix: str


async def _asker(request: Request) -> QuestionAsker:
    return cast(AnswersState, request.state)["asker"]


async def _watcher(request: Request) -> Watcher:
    return cast(AnswersState, request.state)["watcher"]


async def _ask_options(request: Request) -> AskOptions:
    limits = cast(AnswersState, request.state)["ask_limits"]
    body = parse_ask(await _json_body(request), limits)
    question = _new_question(body, limits, _idempotency_key(request), fresh=_wants_fresh(request))
    return AskOptions(
        question=question,
        cancel_on_disconnect=bool(body.cancel_on_disconnect),
        language=await preferred_language(request),
        wants_events=_wants_events(request),
        wait_seconds=await wait_seconds(request),
        prefix=await public_prefix(request),
    )


async def _json_body(request: Request) -> bytes:
    # Taking nothing but JSON also keeps foreign web pages from asking: a browser lets them send JSON only where the
    # server allows it.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if media_type != "application/json":
        field = FieldError(
            field="Content-Type", detail=f"is {media_type[:100] or 'missing'}", remedy="send application/json"
        )
        raise ProblemError.of_fields(Code.UNSUPPORTED_MEDIA_TYPE, [field])
    if coding != "identity":
        field = FieldError(field="Content-Encoding", detail=f"is {coding[:100]}", remedy="send the body as it is")
        raise ProblemError.of_fields(Code.UNSUPPORTED_MEDIA_TYPE, [field], {"Accept-Encoding": "identity"})
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.body()
    except TimeoutError:
        detail = f"The body did not arrive within {_BODY_SECONDS} s."
        raise ProblemError(Code.BODY_TIMEOUT, detail, headers={"Connection": "close"}) from None


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        field = FieldError(
            field="Idempotency-Key",
            detail="is not one key of 1 to 255 visible ASCII characters",
            remedy="send one, for example a random UUID, or leave the header out",
        )
        raise ProblemError.of_fields(Code.INVALID_HEADER, [field])
    return keys[0]


def _wants_fresh(request: Request) -> bool:
    directives = ",".join(request.headers.getlist("cache-control")).lower().split(",")
    return any(directive.strip() == "no-cache" for directive in directives)


def _wants_events(request: Request) -> bool:
    for media_range in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = [part.strip() for part in media_range.split(";")]
        if media_type == "text/event-stream":
            return not any(_NOT_ACCEPTABLE.fullmatch(parameter) for parameter in parameters)
    return False


def _new_question(body: AskRequest, limits: AskLimits, idempotency_key: str | None, *, fresh: bool) -> NewQuestion:
    # Replays are compared with the defaults filled in: to leave a field out and to send its default is the same.
    # What is None has no effect and does not count, so that a later release may add fields.
    seconds = limits.wait_seconds if body.max_wait_seconds is None else body.max_wait_seconds
    priority = body.priority or Priority.NORMAL
    counting = {
        "max_wait_seconds": seconds,
        "cancel_on_disconnect": body.cancel_on_disconnect or None,
        "priority": None if priority is Priority.NORMAL else priority,
    }
    return NewQuestion(
        text=body.question_text,
        language=detect(body.question_text),
        max_wait_seconds=seconds,
        priority=priority,
        idempotency_key=idempotency_key,
        fingerprint=body.model_copy(update=counting).model_dump_json(exclude_none=True) if idempotency_key else "",
        fresh=fresh,
    )


async def _start(request: Request) -> StreamStart | None:
    # EventSource repeats the query as it was at first, and says in the header how far it has got since.
    cursors = request.query_params.getlist("starting_after")
    start = StreamStart.parse(",".join(cursors), "starting_after", Code.INVALID_PARAMETER) if cursors else None
    if ids := request.headers.getlist("last-event-id"):
        return StreamStart.parse(",".join(ids), "Last-Event-ID", Code.INVALID_HEADER)
    return start


Asker = Annotated[QuestionAsker, Depends(_asker)]
Watching = Annotated[Watcher, Depends(_watcher)]
Options = Annotated[AskOptions, Depends(_ask_options)]
StartingAfter = Annotated[StreamStart | None, Depends(_start)]
