"""What a model server means when it refuses: HTTP status and error object to an LlmError.

| HTTP | reason |
| --- | --- |
| 400, 413, 422 and other 4xx | CONTEXT_TOO_LONG where the message or its type says so, else REQUEST_REFUSED |
| 401, 403 | MODEL_SERVER_DENIED |
| 404 | MODEL_NOT_FOUND where the message speaks of a model, else MODEL_SERVER_INVALID: the URL is wrong |
| 429, and 503 by which vLLM says that its queue is full | MODEL_SERVER_OVERLOADED, with its Retry-After |
| 502, 503, 504, and 500 by which vLLM says that its engine is dead | MODEL_SERVER_UNAVAILABLE, with its Retry-After |
| 500 and other 5xx | GENERATION_INTERRUPTED with engine_started |
| 1xx, 2xx but 200, 3xx | MODEL_SERVER_INVALID |

A 500 means that the model server took the request up and failed at it. It counts as an attempt, so that a prompt
at which the server fails each time is given up; as an outage it would be tried until its deadline.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from llm_service.completions import invalid
from llm_service.errors import LlmError, Reason, Violation

# vLLM: "This model's maximum context length is 1024 tokens …", "The decoder prompt (length 2000) is longer than the
# maximum model length of 1024 …", "max_tokens=5000 cannot be greater than max_model_len=2048 …"; llama.cpp: "request
# (3031 tokens) exceeds the available context size (1024 tokens) …" of type exceed_context_size_error; OpenAI: code
# context_length_exceeded.
_CONTEXT: Final = re.compile(
    r"maximum (context|model) length|max_model_len|context size|context[_ ]length|exceed_context_size", re.IGNORECASE
)
# vLLM beyond --max-num-queued-reqs: "The engine is currently busy and cannot accept new requests. …", and beyond
# --max-num-queued-tokens: "The engine has reached its prefill token backlog limit. …", both with 503.
_QUEUE_FULL: Final = re.compile(r"engine (is currently busy|has reached its prefill)", re.IGNORECASE)
# vLLM between the death of its engine and its own end, to whoever asks then: "EngineCore encountered an issue. …". What
# the engine had taken up before it died has had its HTTP 200 and breaks off in the stream.
_ENGINE_DEAD: Final = re.compile(r"EngineCore encountered an issue")
# Validation errors of vLLM's web framework go on with the input, which is the caller's prompt.
_INPUT: Final = re.compile(r"""[,{(\[]?\s*['"]?(input|input_value|body)['"]?\s*[:=].*""", re.DOTALL)


def refusal(status: int, retry_after: str | None, body: bytes) -> LlmError:
    """The error for an answer other than 200 with this status, Retry-After header and body."""
    return refused(status, _error_object(body), retry_after)


def refused(status: int, error: Mapping[str, Any], retry_after: str | None = None) -> LlmError:
    """The error for an error object of the OpenAI form, which came with this HTTP status or names it as its code."""
    said = _INPUT.sub("", str(error.get("message") or "")).strip()
    kind = f"{error.get('type')} {error.get('code')}"
    match status:
        case 401 | 403:
            return LlmError(
                Reason.MODEL_SERVER_DENIED, f"the model server answers {status}: check ASKMESH_MODEL_API_KEY"
            )
        case 404 if "model" in f"{said} {kind}".lower():
            return LlmError(Reason.MODEL_NOT_FOUND, said or "the model server does not serve this model")
        case 404:
            return invalid("answers 404: check that ASKMESH_MODEL_URL ends where /models and /chat/completions begin")
        case _ if status == 429 or (status == 503 and _QUEUE_FULL.search(said)):
            return LlmError(
                Reason.MODEL_SERVER_OVERLOADED, "the model server is overloaded", retry_after=_seconds(retry_after)
            )
        case _ if status in (502, 503, 504) or (status == 500 and _ENGINE_DEAD.search(said)):
            return LlmError(
                Reason.MODEL_SERVER_UNAVAILABLE,
                f"the model server answers {status}{f': {said}' if said else ''}",
                retry_after=_seconds(retry_after),
            )
        case _ if status >= 500:
            return LlmError(
                Reason.GENERATION_INTERRUPTED,
                f"the model server failed with {status}",
                retry_after=_seconds(retry_after),
                engine_started=True,
            )
        case _ if status < 400:
            return invalid(f"answers {status}")
        case _ if _CONTEXT.search(f"{said} {kind}"):
            message = said or "the messages and the answer do not fit the model's context"
            return LlmError(
                Reason.CONTEXT_TOO_LONG, message, violations=[Violation(field="spec.messages", description=message)]
            )
        case _:
            return LlmError(Reason.REQUEST_REFUSED, f"the model server refuses with {status}: {said or 'no message'}")


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        answer = orjson.loads(body)
    except ValueError:
        return {}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error", answer)  # older vLLM: the object itself
    return error if isinstance(error, dict) else {"message": error}


def _seconds(header: str | None) -> float | None:
    """Retry-After, which is a number of seconds or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) if header.strip().isdigit() else _until(header)
    except (ValueError, TypeError):
        return None


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
