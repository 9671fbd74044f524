"""What endpoints ask for, by type."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api_service.answers.cursor import Start
from api_service.answers.languages import Language, preferred
from api_service.answers.schemas import AskRequest, parse_ask
from api_service.authentication.authenticator import Authenticator
from api_service.authentication.principal import LOCAL, Principal
from api_service.core.admission.limits import Limits
from api_service.core.service import QuestionService
from api_service.core.watcher import Watcher
from api_service.health.readiness import Readiness, Report
from api_service.http.problems import Code, FieldError, ProblemError
from foundation.background import Background
from owners.ledger import UsageTotals

_BODY_SECONDS = 20
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_WAIT_SECONDS = 60
LONGEST_WAIT_SECONDS = 50.0
"""Who may wait for 60 s is answered before that: most proxies give up a request on which nothing has come for 60 s, and
with it the id of the question (nginx, ingress-nginx, AWS's load balancers)."""
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}/?")
_NOT_ACCEPTABLE = re.compile(r"q=0(\.0{0,3})?")


ReadDays = Callable[[str, date, date], Awaitable[dict[date, UsageTotals]]]
"""What an owner has spent on each day from the first to the last."""


class AppState(TypedDict):
    """What the application holds while it runs. No authenticator: nobody has to say who they are."""

    authenticator: Authenticator | None
    questions: QuestionService
    watcher: Watcher
    readiness: Readiness
    limits: Limits
    ledger: ReadDays
    background: Background


async def _questions(request: Request) -> QuestionService:
    return cast(AppState, request.state)["questions"]


async def _watcher(request: Request) -> Watcher:
    return cast(AppState, request.state)["watcher"]


async def _limits(request: Request) -> Limits:
    return cast(AppState, request.state)["limits"]


async def _ledger(request: Request) -> ReadDays:
    return cast(AppState, request.state)["ledger"]


async def _broken_parts(request: Request) -> list[str]:
    return cast(AppState, request.state)["background"].broken


async def _readiness_report(request: Request) -> Report:
    return await cast(AppState, request.state)["readiness"].report()


async def authenticate(request: Request) -> Principal:
    """Who calls. Raises ProblemError."""
    authenticator = cast(AppState, request.state)["authenticator"]
    return LOCAL if authenticator is None else await authenticator.principal(request.headers)


async def _preferred_language(request: Request) -> Language | None:
    return preferred(",".join(request.headers.getlist("accept-language")))


async def _idempotency_key(request: Request) -> str | None:
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


async def _wants_fresh(request: Request) -> bool:
    directives = ",".join(request.headers.getlist("cache-control")).lower().split(",")
    return any(directive.strip() == "no-cache" for directive in directives)


async def _wants_events(request: Request) -> bool:
    for media_range in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = [part.strip() for part in media_range.split(";")]
        if media_type == "text/event-stream":
            return not any(_NOT_ACCEPTABLE.fullmatch(parameter) for parameter in parameters)
    return False


async def _wait_seconds(request: Request) -> float:
    values = request.query_params.getlist("wait")
    if not values:
        return 0.0
    if len(values) > 1 or not _SECONDS.fullmatch(values[0]) or float(values[0]) > _MOST_WAIT_SECONDS:
        field = FieldError(
            field="wait",
            detail=f"is not a number of seconds from 0 to {_MOST_WAIT_SECONDS}",
            remedy="send for example wait=30",
        )
        raise ProblemError.of_fields(Code.INVALID_PARAMETER, [field])
    return min(float(values[0]), LONGEST_WAIT_SECONDS)


async def _public_prefix(request: Request) -> str:
    # Only the caller itself sees what becomes of it, so that it does not matter who has written it.
    prefixes = request.headers.getlist("x-forwarded-prefix")
    if len(prefixes) != 1 or not _PREFIX.fullmatch(prefixes[0]):
        return ""
    return prefixes[0].rstrip("/")


async def _start(request: Request) -> Start | None:
    # EventSource repeats the query as it was at first, and says in the header how far it has got since.
    cursors = request.query_params.getlist("starting_after")
    start = Start.parse(",".join(cursors), "starting_after", Code.INVALID_PARAMETER) if cursors else None
    if ids := request.headers.getlist("last-event-id"):
        return Start.parse(",".join(ids), "Last-Event-ID", Code.INVALID_HEADER)
    return start


async def _ask_request(request: Request, questions: "Questions") -> AskRequest:
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
            body = await request.body()
    except TimeoutError:
        detail = f"The body did not arrive within {_BODY_SECONDS} s."
        raise ProblemError(Code.BODY_TIMEOUT, detail, headers={"Connection": "close"}) from None
    return parse_ask(body, questions.limits)


Questions = Annotated[QuestionService, Depends(_questions)]
BrokenParts = Annotated[list[str], Depends(_broken_parts)]
ReadinessReport = Annotated[Report, Depends(_readiness_report)]
Caller = Annotated[Principal, Depends(authenticate)]
PreferredLanguage = Annotated[Language | None, Depends(_preferred_language)]
IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
WantsFresh = Annotated[bool, Depends(_wants_fresh)]
WantsEvents = Annotated[bool, Depends(_wants_events)]
WaitSeconds = Annotated[float, Depends(_wait_seconds)]
PublicPrefix = Annotated[str, Depends(_public_prefix)]
"""Where a proxy has put this API, as /tools/ask: what it takes off a path before the request gets here."""
StartingAfter = Annotated[Start | None, Depends(_start)]
LimitsInForce = Annotated[Limits, Depends(_limits)]
Ledger = Annotated[ReadDays, Depends(_ledger)]
Watching = Annotated[Watcher, Depends(_watcher)]
AskBody = Annotated[AskRequest, Depends(_ask_request)]
