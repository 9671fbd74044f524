"""What a model server means when it refuses: a status, an error object or both, to an LlmError.

A question ends only if the error names the request as the cause: its content, its size, a field that the caller chose.
All other errors say nothing against the request and are waited out, whatever their number. The meaning is looked for in
this order:

1. ``PHRASES``: what its text says, where a vendor has no better word for it;
2. ``WORDS``: its codes and types, those first that speak of the server and not of the request;
3. ``_STATUSES``: its number, which is the HTTP status, or the error's own where that is 200.

| HTTP status | means |
| --- | --- |
| 400, 422 with an error object that says more than the status | the request is refused |
| 413 | the request is too large: also by the page of a proxy, whose limit does not depend on the moment |
| 401, 402, 403, 407 | the credentials are refused, or the account: an operator must act |
| 404, 410 that speak of a model | it is not served |
| 429, 529, and 503 by which vLLM says that its queue is full | overloaded |
| 500 | the server took the request up and failed at it |
| all others: 1xx to 3xx, 400, 404, 422 of a proxy, 405, 408, 409, 42x, 499, 5xx | an outage |

A 500 counts as an attempt: a prompt that breaks the server each time is given up. As an outage it would be tried until
its deadline.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from llm_service.errors import LlmError, Reason, Violation, shortened
from llm_service.upstream.refusals.error_objects import ErrorSaid, as_number, read_body, read_error, word
from llm_service.upstream.refusals.retry_after import retry_after
from llm_service.upstream.refusals.vendor_words import (
    ACCOUNT_REMEDY,
    CONTEXT,
    KEY_REMEDY,
    MAX_TOKENS_UNKNOWN,
    MODEL,
    OWN_FIELDS,
    PER_MINUTE,
    PHRASES,
    UNSERVED,
    URL_REMEDY,
    WORDS,
    ErrorKind,
)

_MAX_QUOTED: Final = 40
_CONTEXT_STATUSES: Final = frozenset((None, 400, 413, 414, 422, 424, 500))
_FIELD_STATUSES: Final = frozenset((None, 400, 422, 500, 501))
# A word counts only beside these numbers: none, as in an error object, and those that the word makes more precise.
_BESIDE: Final[Mapping[ErrorKind, frozenset[int | None]]] = {
    ErrorKind.OVERLOADED: frozenset((None, *range(400, 600))) - {413},
    ErrorKind.DENIED: frozenset((None, *range(400, 500))),
    ErrorKind.UNAVAILABLE: frozenset((None, *range(400, 600))) - {401, 402, 403, 407, 413, 429, 529},
    ErrorKind.TOO_LONG: _CONTEXT_STATUSES,
    ErrorKind.CONTENT: frozenset((None, 400, 403, 422, 451)),
    ErrorKind.MODEL: frozenset((None, 400, 404, 410, 422)),
    ErrorKind.REQUEST: frozenset((None,)),
    ErrorKind.FAILED: frozenset((None, 424)),
}
_STATUSES: Final[Mapping[int, tuple[ErrorKind, str]]] = {
    401: (ErrorKind.DENIED, KEY_REMEDY),
    402: (ErrorKind.DENIED, ACCOUNT_REMEDY),
    403: (ErrorKind.DENIED, KEY_REMEDY),
    405: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    406: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    407: (ErrorKind.DENIED, "a proxy before it wants a name and a password"),
    413: (ErrorKind.REQUEST, ""),
    414: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    415: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    421: (ErrorKind.UNAVAILABLE, "check the host in ASKMESH_MODEL_URL"),
    426: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    429: (ErrorKind.OVERLOADED, ""),
    431: (ErrorKind.UNAVAILABLE, "is ASKMESH_MODEL_API_KEY too long?"),
    500: (ErrorKind.FAILED, ""),
    501: (ErrorKind.UNAVAILABLE, URL_REMEDY),
    529: (ErrorKind.OVERLOADED, ""),
}


def error_of_response(status: int, headers: Mapping[str, str], body: bytes) -> LlmError:
    """The error for an answer other than 200; ``headers`` compares names without case."""
    said = read_body(body)
    # SageMaker's own status says only that the model's server refused.
    number = said.number if status == 424 and said.number else status
    return _error(number, said, retry_after(headers))


def error_of_object(code: int | str | None, error: Mapping[str, Any]) -> LlmError:
    """The error for an error object in a body or an event with HTTP status 200.

    ``code`` is what stands beside it, a status or a vendor's word; None where only the object itself says anything.
    """
    said = read_error(error)
    if isinstance(code, str):
        said = replace(said, words=(word(code), *said.words))
    return _error(as_number(code) or said.number, said, None)


def _error(number: int | None, said: ErrorSaid, seconds: float | None) -> LlmError:
    kind, remedy = _meaning(number, said)
    answers = "the model server answers " + (str(number) if number else "an error")
    hint = f": {remedy}" if remedy else ""
    unsupported = _unsupported(number, said)
    match kind:
        case ErrorKind.OVERLOADED:
            return _llm_error(Reason.MODEL_SERVER_OVERLOADED, "the model server is overloaded", number, seconds)
        case ErrorKind.DENIED:
            return _llm_error(Reason.MODEL_SERVER_DENIED, answers + hint, number, seconds)
        case ErrorKind.MODEL:
            return _llm_error(Reason.MODEL_NOT_FOUND, "the model server does not serve this model", number, seconds)
        case ErrorKind.FAILED:
            message = f"the model server failed{f' with {number}' if number else ''}{_named(said)}"
            return LlmError(
                Reason.GENERATION_INTERRUPTED,
                message,
                retry_after=seconds,
                engine_started=True,
                unsupported=unsupported,
                http_status=number,
            )
        case ErrorKind.UNAVAILABLE if not unsupported:
            return _llm_error(Reason.MODEL_SERVER_UNAVAILABLE, answers + (hint or _named(said)), number, seconds)
        case ErrorKind.TOO_LONG:
            message = said.text or "the messages and the answer do not fit the model's context"
            return LlmError(
                Reason.CONTEXT_TOO_LONG,
                message,
                violations=[Violation(field="spec.messages", description=message)],
                why="the model server says that a request does not fit the model's context",
                http_status=number,
            )
        case _:
            refuses = f"the model server refuses{f' with {number}' if number else ''}"
            return LlmError(
                Reason.REQUEST_REFUSED,
                f"{refuses}: {said.text or 'no message'}",
                why=f"{refuses}{_named(said)}",
                unsupported=unsupported,
                http_status=number,
            )


def _llm_error(reason: Reason, message: str, number: int | None, seconds: float | None) -> LlmError:
    return LlmError(reason, message, retry_after=seconds, http_status=number)


def _meaning(number: int | None, said: ErrorSaid) -> tuple[ErrorKind, str]:
    """What the error means, and what an operator can do about it."""
    for pattern, kind, remedy in PHRASES:
        if pattern.search(said.text):
            return kind, remedy
    kinds = {WORDS[name] for name in said.words if name in WORDS}
    kinds = {kind for kind in kinds if number in _BESIDE[kind]}
    limited = ErrorKind.OVERLOADED in kinds or PER_MINUTE.search(said.text)
    if number in _CONTEXT_STATUSES and not limited and CONTEXT.search(said.text):
        return ErrorKind.TOO_LONG, ""
    if kinds:
        kind = min(kinds, key=lambda kind: kind.value)
        if number is not None and _STATUSES.get(number, (None, ""))[0] is kind:
            return _STATUSES[number]
        return kind, f"{KEY_REMEDY} and its account" if kind is ErrorKind.DENIED else ""
    return _by_number(number, said)


def _by_number(number: int | None, said: ErrorSaid) -> tuple[ErrorKind, str]:
    if number in (None, 400, 422) and UNSERVED.search(said.text):
        return ErrorKind.MODEL, ""
    if number is None:
        return ErrorKind.FAILED, ""
    if number in _STATUSES:
        return _STATUSES[number]
    if number in (404, 410):
        return (ErrorKind.MODEL, "") if MODEL.search(said.text) else (ErrorKind.UNAVAILABLE, URL_REMEDY)
    if number in (400, 422):
        if said.is_object and _says_more(number, said):
            return ErrorKind.REQUEST, ""
        return ErrorKind.UNAVAILABLE, f"it says no reason, as a proxy may: {URL_REMEDY}"
    if 300 <= number < 400:
        return ErrorKind.UNAVAILABLE, "it redirects: name in ASKMESH_MODEL_URL where to, up to and including /v1"
    if number < 400:
        return ErrorKind.UNAVAILABLE, f"that is no answer: {URL_REMEDY}"
    return ErrorKind.UNAVAILABLE, ""


def _says_more(number: int, said: ErrorSaid) -> bool:
    """Whether the error says more than its status does."""
    phrase = HTTPStatus(number).phrase.lower()
    texts = {text.strip(" .!").lower() for text in said.text.split("; ")} - {phrase, "error", ""}
    return bool(texts or said.fields or any(WORDS.get(name) for name in said.words))


def _unsupported(number: int | None, said: ErrorSaid) -> frozenset[str]:
    """The fields of ``OWN_FIELDS``, and ``max_tokens``, that the server does not take."""
    if number not in _FIELD_STATUSES:
        return frozenset()
    named = {name for name in OWN_FIELDS if name in said.fields or re.search(rf"\b{name}\b", said.text)}
    if "continuous_usage_stats" in named:
        named.discard("stream_options")  # which only holds it
    unknown = "max_tokens" in said.fields and {"unsupported_parameter", "extra_forbidden"} & set(said.words)
    if unknown or MAX_TOKENS_UNKNOWN.search(said.text):
        named.add("max_tokens")
    return frozenset(named)


def _named(said: ErrorSaid) -> str:
    """The error's words and fields in brackets: identifiers, so that none can hold what somebody asked."""
    names = [name for name in (*said.words, *sorted(said.fields)) if re.fullmatch(rf"[\w.]{{1,{_MAX_QUOTED}}}", name)]
    return f" ({shortened(', '.join(dict.fromkeys(names)), 100)})" if names else ""
