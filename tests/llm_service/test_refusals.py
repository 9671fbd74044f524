import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_service.errors import Reason
from llm_service.refusals import refusal


def error(message: str, kind: str = "BadRequestError", **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, **fields}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, error("temperature must be non-negative"), Reason.REQUEST_REFUSED),
        (400, b"", Reason.REQUEST_REFUSED),
        (400, b"[1]", Reason.REQUEST_REFUSED),
        (422, b'{"detail": "no"}', Reason.REQUEST_REFUSED),
        (413, b"too large", Reason.REQUEST_REFUSED),
        # vLLM, in its versions
        (
            400,
            error("This model's maximum context length is 1024 tokens. However, you requested 2000 tokens."),
            Reason.CONTEXT_TOO_LONG,
        ),
        (
            400,
            error(
                "'max_tokens' or 'max_completion_tokens' is too large: 900. This model's maximum context length is"
                " 1024 tokens and your request has 200 input tokens (900 > 1024 - 200)."
            ),
            Reason.CONTEXT_TOO_LONG,
        ),
        (
            400,
            error("The decoder prompt (length 2000) is longer than the maximum model length of 1024."),
            Reason.CONTEXT_TOO_LONG,
        ),
        (
            400,
            error("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens."),
            Reason.CONTEXT_TOO_LONG,
        ),
        # llama.cpp
        (
            400,
            error(
                "request (3031 tokens) exceeds the available context size (1024 tokens), try increasing it",
                "exceed_context_size_error",
            ),
            Reason.CONTEXT_TOO_LONG,
        ),
        # OpenAI
        (400, error("Please reduce your prompt.", code="context_length_exceeded"), Reason.CONTEXT_TOO_LONG),
        (401, error("bad key"), Reason.MODEL_SERVER_DENIED),
        (403, b"<html>", Reason.MODEL_SERVER_DENIED),
        (404, error("The model `x` does not exist.", "NotFoundError"), Reason.MODEL_NOT_FOUND),
        (
            404,
            b'{"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"}',
            Reason.MODEL_NOT_FOUND,
        ),
        (404, error("File Not Found", "not_found_error"), Reason.MODEL_SERVER_INVALID),
        (404, b'{"detail":"Not Found"}', Reason.MODEL_SERVER_INVALID),
        (429, b"", Reason.MODEL_SERVER_OVERLOADED),
        (503, error("The engine is currently busy and cannot accept new requests."), Reason.MODEL_SERVER_OVERLOADED),
        (503, error("The engine has reached its prefill token backlog limit."), Reason.MODEL_SERVER_OVERLOADED),
        (500, error("CUDA error"), Reason.GENERATION_INTERRUPTED),
        (500, error("EngineCore encountered an issue. See stack trace"), Reason.MODEL_SERVER_UNAVAILABLE),
        (501, b"", Reason.GENERATION_INTERRUPTED),
        (502, b"<html>", Reason.MODEL_SERVER_UNAVAILABLE),
        (503, error("Loading model", "unavailable_error"), Reason.MODEL_SERVER_UNAVAILABLE),
        (504, b"", Reason.MODEL_SERVER_UNAVAILABLE),
        (204, b"", Reason.MODEL_SERVER_INVALID),
        (302, b"", Reason.MODEL_SERVER_INVALID),
    ],
)
def test_an_answer_is_understood(status: int, body: bytes, reason: Reason) -> None:
    told = refusal(status, None, body)
    assert told.reason is reason
    assert told.engine_started is (reason is Reason.GENERATION_INTERRUPTED)
    assert [violation.field for violation in told.violations] == (
        ["spec.messages"] if reason is Reason.CONTEXT_TOO_LONG else []
    )


def test_every_status_is_understood() -> None:
    assert {refusal(status, None, b"").reason for status in range(100, 600)} == {
        Reason.REQUEST_REFUSED,
        Reason.MODEL_SERVER_DENIED,
        Reason.MODEL_SERVER_OVERLOADED,
        Reason.MODEL_SERVER_UNAVAILABLE,
        Reason.GENERATION_INTERRUPTED,
        Reason.MODEL_SERVER_INVALID,
    }


def test_a_message_is_shortened() -> None:
    assert len(refusal(400, None, error("x" * 10_000)).message) <= 200


def test_a_prompt_in_a_validation_error_is_not_passed_on() -> None:
    said = (
        "[{'type': 'int_parsing', 'loc': ('body', 'n'), 'msg': 'not an integer', 'input': {'messages': 'my secret'}}]"
    )
    message = refusal(400, None, error(said)).message
    assert "not an integer" in message
    assert "secret" not in message
    said = "1 validation error:\n  {'type': 'float_parsing', 'msg': 'not a number', 'input': 'my secret'}"
    assert refusal(400, None, error(said)).message.endswith("'msg': 'not a number'")


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("0", 0), (" 7 ", 7), ("soon", None), ("-1", None), ("", None)]
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    assert refusal(503, header, b"").retry_after == seconds


def test_retry_after_may_be_a_date() -> None:
    later, earlier = (format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True) for hours in (1, -1))
    waiting = refusal(429, later, b"").retry_after
    assert waiting is not None
    assert 3000 < waiting <= 3600
    assert refusal(429, earlier, b"").retry_after == 0
