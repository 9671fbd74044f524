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

from api_service.core.errors import ErrorCode, ServiceError
from api_service.http.rate_limit_headers import rate_limit_headers
from questions.asking import IdempotencyKeyReusedError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

QUESTION_NOT_FOUND = "You have no question with this id. Ids are the integers that POST /api/ask returns."
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


class ProblemType(NamedTuple):
    """What all problems of a code share. ``retryable``: the same request may succeed later."""

    status: HTTPStatus
    title: str
    retryable: bool = False


PROBLEM_TYPES: Mapping[Code, ProblemType] = {
    Code.INVALID_JSON: ProblemType(HTTPStatus.BAD_REQUEST, "The body is not valid JSON"),
    Code.INVALID_HEADER: ProblemType(HTTPStatus.BAD_REQUEST, "A header is not valid"),
    Code.INVALID_PARAMETER: ProblemType(HTTPStatus.BAD_REQUEST, "A query parameter is not valid"),
    Code.INVALID_FIELD: ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "A field of the body is not valid"),
    Code.IDEMPOTENCY_KEY_REUSED: ProblemType(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The Idempotency-Key was used before with another body"
    ),
    Code.UNAUTHENTICATED: ProblemType(HTTPStatus.UNAUTHORIZED, "Authentication is required"),
    Code.FORBIDDEN: ProblemType(HTTPStatus.FORBIDDEN, "You may not do this"),
    Code.PATH_NOT_FOUND: ProblemType(HTTPStatus.NOT_FOUND, "There is nothing at this path"),
    Code.QUESTION_NOT_FOUND: ProblemType(HTTPStatus.NOT_FOUND, "There is no such question"),
    Code.METHOD_NOT_ALLOWED: ProblemType(HTTPStatus.METHOD_NOT_ALLOWED, "This path does not support this method"),
    Code.BODY_TIMEOUT: ProblemType(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time", retryable=True),
    Code.BODY_TOO_LARGE: ProblemType(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: ProblemType(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The media type of the body is not supported"
    ),
    Code.HTTP_ERROR: ProblemType(HTTPStatus.BAD_REQUEST, "The request was refused"),
    Code.RATE_LIMITED: ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "You have reached a rate limit", retryable=True),
    Code.BUDGET_SPENT: ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "Your token budget is spent", retryable=True),
    Code.TOO_MANY_QUESTIONS: ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "You have too many questions", retryable=True),
    Code.TOO_MANY_STREAMS: ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "You have too many open streams", retryable=True),
    Code.BACKLOG_FULL: ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "Too many questions wait for an answer", retryable=True
    ),
    Code.DATABASE_UNAVAILABLE: ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "The database is not available", retryable=True
    ),
    Code.ERASURE_UNAVAILABLE: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Nothing can be erased", retryable=True),
    Code.ISSUER_UNAVAILABLE: ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Tokens cannot be checked", retryable=True),
    Code.PROCESS_BROKEN: ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "A part of this process has a defect", retryable=True
    ),
    # What the proxy in front says, with 502 or 504, where no replica answers: see nginx/.
    Code.SERVICE_UNAVAILABLE: ProblemType(HTTPStatus.BAD_GATEWAY, "The service does not answer", retryable=True),
    Code.INTERNAL_ERROR: ProblemType(HTTPStatus.INTERNAL_SERVER_ERROR, "This service has a defect", retryable=True),
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


_CODES: Mapping[ErrorCode, Code] = {code: Code(code) for code in ErrorCode}
_DETAILS: Mapping[ErrorCode, str] = {ErrorCode.QUESTION_NOT_FOUND: QUESTION_NOT_FOUND}


def problem_of(error: ServiceError) -> ProblemError:
    """The problem that says what a service below the doors has said."""
    headers = rate_limit_headers(error.rate_limits)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    code, detail = _CODES[error.code], _DETAILS.get(error.code, error.detail)
    fields = [FieldError(**field._asdict()) for field in error.fields]
    if not detail:
        return ProblemError.of_fields(code, fields, headers)
    return ProblemError(code, detail, errors=fields, headers=headers)


def problem(code: Code, detail: str, request_id: str, errors: Iterable[FieldError] = ()) -> Problem:
    """A problem with what its code decides filled in."""
    problem_type = PROBLEM_TYPES[code]
    return Problem(
        type=f"urn:askmesh:problem:{code}",
        title=problem_type.title,
        status=problem_type.status,
        detail=detail,
        code=code,
        retryable=problem_type.retryable,
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


async def _service_error(request: Request, error: ServiceError) -> Response:
    return await _problem(request, problem_of(error))


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
    app.exception_handler(ServiceError)(_service_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid_path)
    app.exception_handler(IdempotencyKeyReusedError)(_key_reused)
    app.exception_handler(ClientDisconnect)(_left)
