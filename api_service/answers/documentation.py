"""What /openapi.json says about the question endpoints beyond their types: headers and examples."""

import json
from typing import Any

from api_service.answers.phrases import ACCEPTED, ENDED, FAILED, FAILURES, NOT_READY
from api_service.answers.schemas import AskRequest, AskResponse, DeltaEvent, StatusEvent
from api_service.answers.server_sent_events import MEDIA_TYPE
from api_service.core.languages import Language
from api_service.http.documentation import (
    RATE_LIMIT_HEADERS,
    REQUEST_ID,
    REQUEST_ID_HEADER,
    Responses,
    Schemas,
    examples,
    header,
    problems,
    query_parameter,
)
from api_service.http.problems import Code
from questions.states import ErrorReason, State

_CURSOR_PATTERN = r"^(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,15})(:end)?$"

_ENGLISH, _RUSSIAN = Language.ENGLISH, Language.RUSSIAN
_CREATED = {"created_at": "2026-01-31T12:00:00.125000Z"}
_FINISHED = _CREATED | {"finished_at": "2026-01-31T12:00:00.831000Z"}
_ANSWER = {
    "question_id": 42,
    "status": "completed",
    "answer_text": "The capital of France is Paris.",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 38, "completion_tokens": 8, "cached_prompt_tokens": 24, "total_tokens": 46},
}
_HEADERS = {
    "Retry-After": {
        "description": "Seconds after which to look again; absent once the status is final.",
        "schema": {"type": "integer", "minimum": 1},
    },
    **REQUEST_ID_HEADER,
}
_ASK_HEADERS = _HEADERS | {
    "Location": {"description": "Where to read the answer.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true`: this Idempotency-Key was used before; nothing new was asked.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    **RATE_LIMIT_HEADERS,
}


_ACCEPT_LANGUAGE = header(
    "Accept-Language",
    "Language of the sentences in `answer_text`: `en` or `ru`. Default: the question's own.",
    examples=["ru, en;q=0.5"],
)
_LINKS = {
    operation: {"operationId": operation, "parameters": {"question_id": "$response.body#/question_id"}}
    for operation in ("answer", "events", "cancel", "erase")
}


def _asked(**fields: object) -> dict[str, Any]:
    return {"question_id": 42, "status": "queued", "cached": False, "coalesced": False, **fields}


def _wait(more: str = "") -> dict[str, Any]:
    described = (
        "Seconds to wait for the end of the question: at most 60, with at most 3 decimals. After 50 the reply comes in"
        " any case, before proxies drop the request. Without `wait` the reply comes at once."
    )
    numbers = {"minimum": 0, "maximum": 60, "multipleOf": 0.001, "default": 0}
    return query_parameter("wait", described + more, type="number", **numbers)


UNDECLARED_SCHEMAS: Schemas = (
    (AskRequest, "validation"),
    (StatusEvent, "serialization"),
    (DeltaEvent, "serialization"),
)
"""Those that no endpoint declares as a parameter or result."""
ASK_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/AskRequest"}}},
    },
    "parameters": [
        _wait(" It has no effect with `Accept: text/event-stream`."),
        header(
            "Idempotency-Key",
            "Your name for this question. Repeating the request with the same key and body returns the same question"
            " and asks nothing new. Keys are kept for at least 24 h.",
            pattern=r"^[\x21-\x7e]{1,255}$",
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        ),
        header("Cache-Control", "`no-cache`: generate a new answer even if the same question was answered before."),
        _ACCEPT_LANGUAGE,
        REQUEST_ID,
    ],
}
_STARTING_AFTER = query_parameter(
    "starting_after",
    "`id` of the event after which to continue. Default: from the start.",
    pattern=_CURSOR_PATTERN,
    examples=["0:12"],
)
CANCEL_REQUEST: dict[str, Any] = {"parameters": [_ACCEPT_LANGUAGE, REQUEST_ID]}
ANSWER_REQUEST: dict[str, Any] = {"parameters": [_wait(), _ACCEPT_LANGUAGE, REQUEST_ID]}
EVENTS_REQUEST: dict[str, Any] = {
    "parameters": [
        _STARTING_AFTER,
        header(
            "Last-Event-ID",
            "Like `starting_after`, and takes precedence. EventSource sends it by itself.",
            pattern=_CURSOR_PATTERN,
            examples=["0:12"],
        ),
        _ACCEPT_LANGUAGE,
        REQUEST_ID,
    ]
}

ASK_RESPONSES: Responses = {
    202: {
        "description": "Accepted: the question is stored and will be answered. With `wait`, it has not ended yet.",
        "headers": _ASK_HEADERS,
        "links": _LINKS,
        "content": examples(
            new=_asked(answer_text=ACCEPTED[_ENGLISH]),
            russian=_asked(answer_text=ACCEPTED[_RUSSIAN]),
            coalesced=_asked(answer_text=ACCEPTED[_ENGLISH], status="in_progress", coalesced=True),
        ),
    },
    200: {
        "model": AskResponse,
        "description": "Accepted, and already ended: answered before, or while you waited.",
        "headers": _ASK_HEADERS,
        "links": _LINKS,
        "content": examples(
            cached=_asked(answer_text=_ANSWER["answer_text"], status="completed", cached=True),
            waited=_asked(answer_text=_ANSWER["answer_text"], status="completed"),
            failed=_asked(answer_text=FAILED[ErrorReason.CONTEXT_TOO_LONG][_ENGLISH], status="failed"),
        ),
    },
    **problems(
        Code.INVALID_JSON,
        Code.INVALID_HEADER,
        Code.INVALID_PARAMETER,
        Code.BODY_TIMEOUT,
        Code.BODY_TOO_LARGE,
        Code.UNSUPPORTED_MEDIA_TYPE,
        Code.INVALID_FIELD,
        Code.IDEMPOTENCY_KEY_REUSED,
        Code.FORBIDDEN,
        Code.RATE_LIMITED,
        Code.BUDGET_SPENT,
        Code.TOO_MANY_QUESTIONS,
        Code.TOO_MANY_STREAMS,
        Code.BACKLOG_FULL,
        Code.DATABASE_UNAVAILABLE,
    ),
}
_cancelled = {
    "question_id": 42,
    "status": "cancelled",
    "answer_text": ENDED[State.CANCELLED][_ENGLISH],
    **_FINISHED,
}
_PROBLEMS = problems(Code.QUESTION_NOT_FOUND, Code.DATABASE_UNAVAILABLE)
ANSWER_RESPONSES: Responses = {
    200: {
        "description": "The question as it is now.",
        "headers": _HEADERS,
        "content": examples(
            in_progress={"question_id": 42, "status": "in_progress", "answer_text": NOT_READY[_ENGLISH], **_CREATED},
            completed=_ANSWER | _FINISHED,
            incomplete=_ANSWER
            | {"status": "incomplete", "answer_text": "The capital of", "finish_reason": "output_limit"}
            | _FINISHED,
            failed={
                "question_id": 42,
                "status": "failed",
                "answer_text": FAILED[ErrorReason.CONTEXT_TOO_LONG][_ENGLISH],
                "error": {"reason": "context_too_long", "detail": FAILURES[ErrorReason.CONTEXT_TOO_LONG]},
                **_FINISHED,
            },
            cancelled=_cancelled,
            expired=_cancelled | {"status": "expired", "answer_text": ENDED[State.EXPIRED][_ENGLISH]},
        ),
    },
    **_PROBLEMS,
    **problems(Code.INVALID_PARAMETER, Code.TOO_MANY_STREAMS),
}
_EVENTS = {
    "status": "event: status\ndata: "
    '{"question_id":42,"status":"queued","queue_position":3,"estimated_wait_seconds":1.5}',
    "delta": 'id: 0:12\nevent: delta\ndata: {"text":"The capital "}',
    "restarted": "event: restarted\ndata: {}",
    "completed": "id: 0:31:end\nevent: completed\ndata: " + json.dumps(_ANSWER | _FINISHED, separators=(",", ":")),
}
_EVENT_STREAM: dict[str, Any] = {
    "schema": {
        "type": "string",
        "description": "Server-sent events with JSON as `data`. `status` (StatusEvent): `queued` with an estimated"
        " place in the queue, or `in_progress`. It is the first event unless the question has ended; for POST, always."
        " `delta` (DeltaEvent): the next text. `restarted`: discard the deltas so far, the text starts again."
        " `completed`, `incomplete`, `failed`, `cancelled` or `expired` (AnswerResponse) is the last event. Text and"
        " the last event have an `id`, the cursor to continue after: epoch and offset in bytes of UTF-8, `:end` for the"
        " last. A stream that ends without the last event was interrupted: continue after the last `id`. A comment"
        " comes after every 8 s of silence.",
    },
    "examples": {name: {"value": f"{event}\n\n"} for name, event in _EVENTS.items()},
}
EVENTS_RESPONSES: Responses = {
    200: {
        "description": "Events until the question has ended.",
        "headers": REQUEST_ID_HEADER,
        "content": {MEDIA_TYPE: _EVENT_STREAM},
    },
    204: {"description": "You have read the last event: do not reconnect.", "headers": REQUEST_ID_HEADER},
    **problems(
        Code.INVALID_HEADER,
        Code.INVALID_PARAMETER,
        Code.QUESTION_NOT_FOUND,
        Code.TOO_MANY_STREAMS,
        Code.DATABASE_UNAVAILABLE,
    ),
}
ASK_RESPONSES[200]["content"][MEDIA_TYPE] = _EVENT_STREAM
CANCEL_RESPONSES: Responses = {
    200: {
        "description": "The ended question, cancelled now or ended before.",
        "headers": REQUEST_ID_HEADER,
        "content": examples(cancelled=_cancelled, completed=_ANSWER | _FINISHED),
    },
    **_PROBLEMS,
}
