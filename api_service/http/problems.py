"""What this service refuses or fails, as RFC 9457 problem details. No other place writes an error response."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple, Self

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from questions.asking import IdempotencyKeyReusedError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

QUESTION_NOT_FOUND = "You have no question with this id. Ids are the integers that POST /api/ask returns."
UNAVAILABLE = "The database does not answer at the moment. Nothing is wrong with your request: repeat it later."
ERASURE_UNAVAILABLE = (
    "Redis, which can hold a copy of the answer, does not answer at the moment. Nothing was erased: repeat it later."
)
ISSUER_UNAVAILABLE = "The token issuer's keys cannot be fetched at the moment. Repeat the request later."
PROCESS_BROKEN = "Restart this process: a part of it fails repeatedly: {}."
DEFECT = "This is a defect of the service, not of your request. The log has details under the request_id."


class Code(StrEnum):
    """What is wrong, in words that programs compare."""

    INVALID_JSON = "invalid_json"
    INVALID_HEADER = "invalid_header"
    INVALID_PARAMETER = "invalid_parameter"
    INVALID_FIELD = "invalid_field"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    PATH_NOT_FOUND = "path_not_found"
    QUESTION_NOT_FOUND = "question_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TIMEOUT = "body_timeout"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    HTTP_ERROR = "http_error"
    RATE_LIMITED = "rate_limited"
    BUDGET_SPENT = "budget_spent"
    TOO_MANY_QUESTIONS = "too_many_questions"
    TOO_MANY_STREAMS = "too_many_streams"
    BACKLOG_FULL = "backlog_full"
    DATABASE_UNAVAILABLE = "database_unavailable"
    ERASURE_UNAVAILABLE = "erasure_unavailable"
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    PROCESS_BROKEN = "process_broken"
    SERVICE_UNAVAILABLE = "service_unavailable"
    INTERNAL_ERROR = "internal_error"


class Kind(NamedTuple):
    """What all problems of a code share. ``retryable``: the same request may succeed later."""

    status: HTTPStatus
    title: str
    retryable: bool = False


KINDS: Mapping[Code, Kind] = {
    Code.INVALID_JSON: Kind(HTTPStatus.BAD_REQUEST, "The body is not valid JSON"),
    Code.INVALID_HEADER: Kind(HTTPStatus.BAD_REQUEST, "A header is not valid"),
    Code.INVALID_PARAMETER: Kind(HTTPStatus.BAD_REQUEST, "A query parameter is not valid"),
    Code.INVALID_FIELD: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "A field of the body is not valid"),
    Code.IDEMPOTENCY_KEY_REUSED: Kind(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The Idempotency-Key was used before with another body"
    ),
    Code.UNAUTHENTICATED: Kind(HTTPStatus.UNAUTHORIZED, "Authentication is required"),
    Code.FORBIDDEN: Kind(HTTPStatus.FORBIDDEN, "You may not do this"),
    Code.PATH_NOT_FOUND: Kind(HTTPStatus.NOT_FOUND, "There is nothing at this path"),
    Code.QUESTION_NOT_FOUND: Kind(HTTPStatus.NOT_FOUND, "There is no such question"),
    Code.METHOD_NOT_ALLOWED: Kind(HTTPStatus.METHOD_NOT_ALLOWED, "This path does not support this method"),
    Code.BODY_TIMEOUT: Kind(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time", retryable=True),
    Code.BODY_TOO_LARGE: Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The media type of the body is not supported"),
    Code.HTTP_ERROR: Kind(HTTPStatus.BAD_REQUEST, "The request was refused"),
    Code.RATE_LIMITED: Kind(HTTPStatus.TOO_MANY_REQUESTS, "You have reached a rate limit", retryable=True),
    Code.BUDGET_SPENT: Kind(HTTPStatus.TOO_MANY_REQUESTS, "Your token budget is spent", retryable=True),
    Code.TOO_MANY_QUESTIONS: Kind(HTTPStatus.TOO_MANY_REQUESTS, "You have too many questions", retryable=True),
    Code.TOO_MANY_STREAMS: Kind(HTTPStatus.TOO_MANY_REQUESTS, "You have too many open streams", retryable=True),
    Code.BACKLOG_FULL: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Too many questions wait for an answer", retryable=True),
    Code.DATABASE_UNAVAILABLE: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "The database is not available", retryable=True),
    Code.ERASURE_UNAVAILABLE: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Nothing can be erased", retryable=True),
    Code.ISSUER_UNAVAILABLE: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "Tokens cannot be checked", retryable=True),
    Code.PROCESS_BROKEN: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "A part of this process has a defect", retryable=True),
    # What the proxy in front says, with 502 or 504, where no replica answers: see nginx/.
    Code.SERVICE_UNAVAILABLE: Kind(HTTPStatus.BAD_GATEWAY, "The service does not answer", retryable=True),
    Code.INTERNAL_ERROR: Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "This service has a defect", retryable=True),
}


class FieldError(BaseModel):
    """What is wrong with one field, header or parameter."""

    field: str = Field(description="Name of the field, header or parameter; `body` for the body as a whole.")
    detail: str = Field(description="What is wrong with it.")
    remedy: str = Field(description="What to do about it.")


class Problem(BaseModel):
    """An error response: RFC 9457 with `code`, `retryable`, `request_id` and `errors` as extensions."""

    type: str = Field(description="`urn:askmesh:problem:` and the code.")
    title: str = Field(description="The same for all problems of this type.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened and what to do about it, for people.")
    code: Code = Field(description="What is wrong, for programs.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str = Field(description="The `X-Request-ID` of this request: name it when you ask for help.")
    errors: list[FieldError] = Field(description="What is wrong field by field; empty where no field is to blame.")


class ProblemError(Exception):
    """Raised anywhere below an endpoint: ends the request with this problem."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers or {}

    @classmethod
    def of_fields(cls, code: Code, errors: Sequence[FieldError], headers: Mapping[str, str] | None = None) -> Self:
        """A problem whose detail is what is wrong with these fields."""
        detail = " ".join(f"{error.field} {error.detail}: {error.remedy}." for error in errors)
        return cls(code, detail, errors=errors, headers=headers)


def problem(code: Code, detail: str, request_id: str, errors: Iterable[FieldError] = ()) -> Problem:
    """A problem with what its code decides filled in."""
    kind = KINDS[code]
    return Problem(
        type=f"urn:askmesh:problem:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        retryable=kind.retryable,
        request_id=request_id,
        errors=list(errors),
    )


def problem_response(
    scope: Scope,
    code: Code,
    detail: str,
    *,
    errors: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """The response for a problem. ``status`` where it differs from the code's."""
    content = problem(code, detail, scope["state"]["request_id"], errors)
    content.status = status or content.status
    return Response(
        content.model_dump_json(),
        status_code=content.status,
        media_type=MEDIA_TYPE,
        # A 404 or 405 could otherwise be kept by caches (RFC 9110, section 15.1).
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


async def _problem(request: Request, error: ProblemError) -> Response:
    return problem_response(request.scope, error.code, error.detail, errors=error.errors, headers=error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    method, path = request.method, request.url.path[:200]
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        code, detail = Code.PATH_NOT_FOUND, f"There is nothing at {path}: /openapi.json lists the paths."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        code, detail = Code.METHOD_NOT_ALLOWED, f"{path} does not support {method}: the Allow header lists its methods."
        # The framework names the methods of one route, and a path can have several. What is mounted is of files alone.
        # Nobody names HEAD, which HeadRequests takes for GET everywhere.
        allowed = _methods(request) or {"GET"}
        headers["Allow"] = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
    else:
        code, detail = Code.HTTP_ERROR, error.detail
    return problem_response(request.scope, code, detail, headers=headers, status=error.status_code)


def _methods(request: Request) -> set[str]:
    """What the path takes, whichever route does."""
    routes: list[BaseRoute] = request.app.router.routes
    scopes = ({**request.scope, "method": method} for method in _METHODS)
    return {scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)}


async def _key_reused(request: Request, _error: IdempotencyKeyReusedError) -> Response:
    field = FieldError(
        field="Idempotency-Key",
        detail="was used before with another body",
        remedy="send the same body as before, or a new key",
    )
    return await _problem(request, ProblemError.of_fields(Code.IDEMPOTENCY_KEY_REUSED, [field]))


async def _invalid_path(request: Request, _error: RequestValidationError) -> Response:
    # Bodies, headers and queries are read by this package's own code, so that only paths are left to FastAPI.
    return problem_response(request.scope, Code.QUESTION_NOT_FOUND, QUESTION_NOT_FOUND)


async def _left(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error that routing, validation or an endpoint raises a problem.

    Defects are left to ``RequestIds``, which sees what happens outside of endpoints too.
    """
    app.exception_handler(ProblemError)(_problem)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid_path)
    app.exception_handler(IdempotencyKeyReusedError)(_key_reused)
    app.exception_handler(ClientDisconnect)(_left)
