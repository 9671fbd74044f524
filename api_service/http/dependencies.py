"""What endpoints of several features ask for, by type."""

import re
from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request
from pydantic import BeforeValidator, WithJsonSchema

from api_service.core.admission.limits import Limits
from api_service.core.languages import Language
from api_service.core.reading import QuestionReader
from api_service.http.accept_language import preferred
from api_service.http.problems import Code, FieldError, ProblemError
from questions.asking import MAX_ID

_MOST_WAIT_SECONDS = 60
LONGEST_WAIT_SECONDS = 50.0
"""Who may wait for 60 s is answered before that: most proxies give up a request on which nothing has come for 60 s, and
with it the id of the question (nginx, ingress-nginx, AWS's load balancers)."""
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}/?")


class CoreState(TypedDict):
    """What several features need of the application while it runs."""

    reader: QuestionReader
    limits: Limits


async def _reader(request: Request) -> QuestionReader:
    return cast(CoreState, request.state)["reader"]


async def _limits(request: Request) -> Limits:
    return cast(CoreState, request.state)["limits"]


async def wait_seconds(request: Request) -> float:
    """For how long the reply may be waited for. Raises ProblemError."""
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


async def preferred_language(request: Request) -> Language | None:
    """Which language the caller asks for sentences in."""
    return preferred(",".join(request.headers.getlist("accept-language")))


async def public_prefix(request: Request) -> str:
    """Where a proxy has put this API, as /tools/ask: what it takes off a path before the request gets here."""
    # Only the caller itself sees what becomes of it, so that it does not matter who has written it.
    prefixes = request.headers.getlist("x-forwarded-prefix")
    if len(prefixes) != 1 or not _PREFIX.fullmatch(prefixes[0]):
        return ""
    return prefixes[0].rstrip("/")


def _parse_question_id(text: object) -> int:
    # int() takes "+1", " 1", "1_0" and digits of every script; an id is written in one way only.
    if (
        isinstance(text, str)
        and len(text) <= len(str(MAX_ID))
        and text.isascii()
        and text.isdecimal()
        and text[0] != "0"
    ):
        question_id = int(text)
        if question_id <= MAX_ID:
            return question_id
    raise ValueError("not an id")


Reader = Annotated[QuestionReader, Depends(_reader)]
LimitsInForce = Annotated[Limits, Depends(_limits)]
WaitSeconds = Annotated[float, Depends(wait_seconds)]
PreferredLanguage = Annotated[Language | None, Depends(preferred_language)]
QuestionId = Annotated[
    int, BeforeValidator(_parse_question_id), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_ID})
]
