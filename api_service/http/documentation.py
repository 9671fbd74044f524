"""What /openapi.json says of a feature beyond the types of its endpoints: problems, headers, parameters, examples."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from api_service.core.errors import ERASURE_UNAVAILABLE, UNAVAILABLE
from api_service.http.problems import (
    DEFECT,
    ISSUER_UNAVAILABLE,
    MEDIA_TYPE,
    PROBLEM_TYPES,
    PROCESS_BROKEN,
    QUESTION_NOT_FOUND,
    Code,
    FieldError,
    Problem,
    ProblemError,
    problem,
)

Responses = dict[int | str, dict[str, Any]]
"""For FastAPI's ``responses``."""
Schemas = Sequence[tuple[type[BaseModel], JsonSchemaMode]]

REFERENCE = "#/components/schemas/{model}"
_REQUEST_ID = "5f0c1f8e2f0b4d0f9c7a4f7b1f1e9d3a"


def _of_field(code: Code, field: str, detail: str, remedy: str) -> ProblemError:
    return ProblemError.of_fields(code, [FieldError(field=field, detail=detail, remedy=remedy)])


EXAMPLES: Mapping[Code, ProblemError] = {
    example.code: example
    for example in (
        _of_field(
            Code.INVALID_JSON, "body", "is not JSON at line 1, column 19", 'send JSON such as {"question_text": "…"}'
        ),
        _of_field(
            Code.INVALID_HEADER,
            "Idempotency-Key",
            "is not one key of 1 to 255 visible ASCII characters",
            "send one, for example a random UUID, or leave the header out",
        ),
        _of_field(
            Code.INVALID_PARAMETER, "wait", "is not a number of seconds from 0 to 60", "send for example wait=30"
        ),
        _of_field(Code.INVALID_FIELD, "question_text", "is blank", "write a question in it"),
        _of_field(
            Code.IDEMPOTENCY_KEY_REUSED,
            "Idempotency-Key",
            "was used before with another body",
            "send the same body as before, or a new key",
        ),
        ProblemError(Code.UNAUTHENTICATED, "This key is not known, has expired or was revoked."),
        ProblemError(Code.FORBIDDEN, "This needs the operator role; you have user."),
        ProblemError(Code.PATH_NOT_FOUND, "There is nothing at /api/nothing: /openapi.json lists the paths."),
        ProblemError(Code.QUESTION_NOT_FOUND, QUESTION_NOT_FOUND),
        ProblemError(Code.METHOD_NOT_ALLOWED, "/api/ask does not support GET: the Allow header lists its methods."),
        ProblemError(Code.BODY_TIMEOUT, "The body did not arrive within 20 s."),
        ProblemError(Code.BODY_TOO_LARGE, "The body may have at most 65,536 bytes. Shorten it."),
        _of_field(Code.UNSUPPORTED_MEDIA_TYPE, "Content-Type", "is missing", "send application/json"),
        ProblemError(Code.HTTP_ERROR, "The request was refused."),
        ProblemError(Code.RATE_LIMITED, "You may ask 60 questions per minute. Ask again later."),
        ProblemError(
            Code.BUDGET_SPENT,
            "Your answers used 1,000,210 of 1,000,000 tokens today. The next day begins in UTC.",
        ),
        ProblemError(
            Code.TOO_MANY_QUESTIONS,
            "1,000 of your questions are queued; the limit is 1,000. Ask again when some have ended.",
        ),
        ProblemError(
            Code.TOO_MANY_STREAMS, "You have 100 open streams and waits here, which is the limit. End one first."
        ),
        ProblemError(Code.BACKLOG_FULL, "100,000 questions or more wait for an answer already. Ask again later."),
        ProblemError(Code.DATABASE_UNAVAILABLE, UNAVAILABLE),
        ProblemError(Code.ERASURE_UNAVAILABLE, ERASURE_UNAVAILABLE),
        ProblemError(Code.ISSUER_UNAVAILABLE, ISSUER_UNAVAILABLE),
        ProblemError(Code.PROCESS_BROKEN, PROCESS_BROKEN.format("following texts")),
        ProblemError(Code.SERVICE_UNAVAILABLE, "No replica of the service answered. Repeat the request later."),
        ProblemError(Code.INTERNAL_ERROR, DEFECT),
    )
}
_HEADERS: Mapping[str, Any] = {
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}},
    **{
        f"x-ratelimit-{what}-{of}": {"description": f"{words} {of}, if they are limited.", "schema": schema}
        for of in ("requests", "tokens")
        for what, words, schema in (
            ("limit", "Limit per minute for", {"type": "string", "pattern": "^[0-9]+$"}),
            ("remaining", "What is left of the limit for", {"type": "string", "pattern": "^[0-9]+$"}),
            (
                "reset",
                "Time until the full limit is available again for",
                {"type": "string", "examples": ["17ms", "1.5s", "6m0s"]},
            ),
        )
    },
    "WWW-Authenticate": {"description": "How to authenticate: `Bearer`.", "schema": {"type": "string"}},
    "Allow": {"description": "The methods that this path supports.", "schema": {"type": "string"}},
}
RATE_LIMIT_HEADERS: Mapping[str, Any] = {name: header for name, header in _HEADERS.items() if name.startswith("x-")}
_HEADERS_OF: Mapping[Code, Sequence[str]] = {
    Code.BACKLOG_FULL: ("Retry-After",),
    Code.DATABASE_UNAVAILABLE: ("Retry-After",),
    Code.ERASURE_UNAVAILABLE: ("Retry-After",),
    Code.ISSUER_UNAVAILABLE: ("Retry-After",),
    Code.SERVICE_UNAVAILABLE: ("Retry-After",),
    Code.TOO_MANY_QUESTIONS: ("Retry-After",),
    Code.TOO_MANY_STREAMS: ("Retry-After",),
    Code.RATE_LIMITED: ("Retry-After", *RATE_LIMIT_HEADERS),
    Code.BUDGET_SPENT: ("Retry-After", *RATE_LIMIT_HEADERS),
    Code.METHOD_NOT_ALLOWED: ("Allow",),
    Code.UNAUTHENTICATED: ("WWW-Authenticate",),
}


def problems(*codes: Code) -> Responses:
    """The error responses of an endpoint."""
    by_status: defaultdict[int | str, list[Code]] = defaultdict(list)
    for code in codes:
        by_status[int(PROBLEM_TYPES[code].status)].append(code)
    return {status: _response(PROBLEM_TYPES[same[0]].status.phrase, same) for status, same in by_status.items()}


def _response(description: str, codes: list[Code]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {name: _HEADERS[name] for code in codes for name in _HEADERS_OF.get(code, ())},
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": REFERENCE.format(model=Problem.__name__)},
                "examples": {
                    str(code): {"summary": PROBLEM_TYPES[code].title, "value": _example(code)} for code in codes
                },
            }
        },
    }


def _example(code: Code) -> dict[str, Any]:
    example = EXAMPLES[code]
    return problem(code, example.detail, _REQUEST_ID, example.errors).model_dump(mode="json")


ANY_PROBLEM: Responses = {
    "default": _response(
        "Any other problem",
        [
            Code.PATH_NOT_FOUND,
            Code.METHOD_NOT_ALLOWED,
            Code.HTTP_ERROR,
            Code.ISSUER_UNAVAILABLE,
            Code.SERVICE_UNAVAILABLE,
            Code.INTERNAL_ERROR,
        ],
    )
}

REQUEST_ID_HEADER = {
    "X-Request-ID": {"description": "Identifies this request in the log.", "schema": {"type": "string"}}
}


def header(name: str, description: str, **schema: object) -> dict[str, Any]:
    """A header of the request."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def query_parameter(name: str, description: str, **schema: object) -> dict[str, Any]:
    """A parameter of the query, which is a string unless ``schema`` says otherwise."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def examples(**values: dict[str, Any]) -> dict[str, Any]:
    """The content of a response: JSON as in these."""
    return {"application/json": {"examples": {name: {"value": value} for name, value in values.items()}}}


# No pattern: nothing is refused for it.
REQUEST_ID = header(
    "X-Request-ID", "Your name for this request; any other than 1 to 128 of `A-Z a-z 0-9 . _ : -` is replaced."
)
