"""Streams over real connections: every shape, every way to end, every error, and floods."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from askmesh.llm.v1 import generation_pb2
from askmesh.llm.v1.generation_pb2 import (
    FINISH_REASON_CONTENT_FILTER,
    FINISH_REASON_OUTPUT_LIMIT,
    FINISH_REASON_STOP,
    FINISH_REASON_TIME_LIMIT,
)
from google.protobuf.duration_pb2 import Duration

from llm_service.generation import _BYTES_A_TOKEN, _UNKNOWN_TOKENS
from llm_service.upstream.stream.finish_reasons import CONTENT_FILTER, LENGTH, STOP
from llm_service.upstream.stream.sse import MAX_BODY_BYTES, MAX_EVENT_BYTES
from tests.fakes.raw_server import Ending, RawModelServer, Reply
from tests.llm_service.conftest import Answer, Client, ask, service_over, until
from tests.llm_service.shapes import AFTERWARDS, DONE, PLAIN, TEXT, USAGE, F, I, P, chunk, data, shapes

FINISHES = {
    STOP: FINISH_REASON_STOP,
    LENGTH: FINISH_REASON_OUTPUT_LIMIT,
    CONTENT_FILTER: FINISH_REASON_CONTENT_FILTER,
}
MUCH = data(chunk("x" * 60_000))


@pytest.fixture
async def raw(loopback: None) -> AsyncIterator[RawModelServer]:
    async with RawModelServer() as server:
        yield server


@pytest.fixture
async def raw_client(raw: RawModelServer) -> AsyncIterator[Client]:
    async with service_over(raw.url) as (_, client):
        yield client


def whole(answer: Answer, text: str = TEXT, finish: int = FINISH_REASON_STOP) -> bool:
    assert answer.completed is not None, answer.failure
    return (answer.text, answer.completed.finish_reason) == (text, finish)


async def test_every_shape_is_answered(raw: RawModelServer, raw_client: Client) -> None:
    for asked, (name, shape) in enumerate(shapes(), 1):
        place = len(shape.sent) // 2
        raw.reply = Reply((shape.sent[:place], shape.sent[place:]))
        answer = await raw_client.stream(ask("q"))
        assert whole(answer, shape.text, FINISHES[shape.finish]), name
        assert answer.completed is not None
        if shape.counts is not None:
            used = answer.completed.usage
            assert (used.prompt_tokens, used.completion_tokens) == (shape.counts.prompt, shape.counts.completion), name
        assert raw.asked == asked


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "application/json", "text/plain", "x"])
async def test_neither_content_type_nor_201_matters(
    raw: RawModelServer, raw_client: Client, status: int, content_type: str
) -> None:
    raw.reply = Reply((PLAIN,), status=status, content_type=content_type)
    assert whole(await raw_client.stream(ask("q")))


@pytest.mark.parametrize("ending", ["end", "cut", "reset", "open", "close"])
@pytest.mark.parametrize("afterwards", AFTERWARDS)
async def test_after_the_finish_reason_the_text_is_whole(
    raw: RawModelServer, raw_client: Client, ending: Ending, afterwards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_service.upstream.client._AFTER_FINISH_SECONDS", 0.1)
    # Of its own read, and of one with the text.
    for parts in ((P + I, F, AFTERWARDS[afterwards]), (P + I + F + AFTERWARDS[afterwards],)):
        raw.reply = Reply([part for part in parts if part], ending)
        assert whole(await raw_client.stream(ask("q")))
        await until(lambda: raw.open == 0)
    assert raw.asked == 2


async def test_counts_after_the_finish_reason_are_waited_for(raw: RawModelServer, raw_client: Client) -> None:
    raw.reply = Reply((P + I + F, data({"choices": [], "usage": USAGE})), "open")
    answer = await raw_client.stream(ask("q"))
    assert whole(answer)
    assert answer.completed is not None
    assert answer.completed.usage == generation_pb2.Usage(prompt_tokens=5, completion_tokens=4)


@pytest.mark.parametrize(
    "parts",
    [
        # Open WebUI before it thinks; a gateway that runs tools; a server that puts a finish reason into every chunk.
        [data(chunk("", "stop")), P + I, F + DONE],
        [data(chunk("", "stop")), P + I + DONE],
        [P + data(chunk(finish="tool_calls")) + data(chunk(" it")), data(chunk(" is.")), F],
        [data(chunk("Paris", "stop")) + data(chunk(" it", "stop")), data(chunk(" is.", "stop")), DONE],
    ],
)
async def test_an_end_that_was_none_is_not_believed(
    raw: RawModelServer, raw_client: Client, parts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_service.upstream.client._AFTER_FINISH_SECONDS", 0.05)
    raw.reply = Reply(parts, pause=0.2)
    assert whole(await raw_client.stream(ask("q")))


async def test_a_text_that_goes_on_after_a_finish_reason_and_is_cut_is_not_whole(
    raw: RawModelServer, raw_client: Client
) -> None:
    raw.reply = Reply((P + F + data(chunk(" it")),), "cut")
    answer = await raw_client.stream(ask("q"))
    assert answer.failure is not None
    assert (answer.text, answer.failure.reason) == ("Paris it", "GENERATION_INTERRUPTED")


@pytest.mark.alone
async def test_a_time_limit_that_passes_while_counts_are_waited_for_ends_nothing(
    raw: RawModelServer, raw_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_service.upstream.client._AFTER_FINISH_SECONDS", 60)
    raw.reply = Reply((P + I, data(chunk(finish="length"))), "open")
    answer = await raw_client.stream(ask("q", time_limit=Duration(seconds=2)))
    assert whole(answer, finish=FINISH_REASON_OUTPUT_LIMIT)


async def test_keep_alives_after_the_finish_reason_have_an_end(
    raw: RawModelServer, raw_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_service.upstream.client._AFTER_FINISH_SECONDS", 0.1)
    raw.reply = Reply((P + I + F, b": ping\n\n"), forever=True)
    assert whole(await raw_client.stream(ask("q")))
    await until(lambda: raw.open == 0)


@pytest.mark.parametrize(
    ("sent", "ending", "reason"),
    [
        (P + I, "end", "GENERATION_INTERRUPTED"),
        (P + I, "reset", "GENERATION_INTERRUPTED"),
        (P + I, "cut", "GENERATION_INTERRUPTED"),
        (P + I, "close", "GENERATION_INTERRUPTED"),
        (P + data({"choices": [], "usage": USAGE}), "reset", "GENERATION_INTERRUPTED"),
        (b'{"object": "chat.completion", "choices": [{"mess', "reset", "GENERATION_INTERRUPTED"),
        (b": ping\n\n", "reset", "GENERATION_INTERRUPTED"),
        (b"<html>Log in</html>", "end", "MODEL_SERVER_UNAVAILABLE"),
        (b"", "end", "MODEL_SERVER_INVALID"),
        (DONE, "end", "MODEL_SERVER_INVALID"),
        (F, "cut", "GENERATION_INTERRUPTED"),
        (data(chunk("Paris", "timeout")), "end", None),
        (data(chunk("Paris")) + DONE, "reset", None),
        (data(chunk("Paris")) + data({"choices": [], "usage": USAGE}), "end", None),
    ],
)
async def test_an_end_without_a_finish_reason(
    raw: RawModelServer, raw_client: Client, sent: bytes, ending: Ending, reason: str | None
) -> None:
    raw.reply = Reply((sent,) if sent else (), ending)
    answer = await raw_client.stream(ask("q"))
    assert (answer.failure.reason if answer.failure else None) == reason
    if reason is None:
        assert answer.text == "Paris"


CONTEXT = "the request exceeds the available context size. try increasing the context size"
OVERLOADED = "MODEL_SERVER_OVERLOADED"
ERRORS = {
    "line of llama.cpp": (
        b'error: {"code":400,"message":"%s","type":"invalid_request_error"}\n\n' % CONTEXT.encode() + DONE,
        "CONTEXT_TOO_LONG",
    ),
    "llama.cpp now": (
        data({"error": {"code": 400, "message": CONTEXT, "type": "exceed_context_size_error"}}),
        "CONTEXT_TOO_LONG",
    ),
    "llama.cpp with 500": (
        data({"error": {"code": 500, "message": "Context size has been exceeded."}}),
        "CONTEXT_TOO_LONG",
    ),
    "context without a code": (data({"error": CONTEXT}), "CONTEXT_TOO_LONG"),
    "context as a body": (
        b'{"error": {"message": "%s", "code": "context_length_exceeded"}}' % CONTEXT.encode(),
        "CONTEXT_TOO_LONG",
    ),
    "context of older vLLM": (
        data({"object": "error", "message": "This model's maximum context length is 10 tokens.", "code": 400}),
        "CONTEXT_TOO_LONG",
    ),
    "TGI overloaded": (data({"error": "Model is overloaded", "error_type": "overloaded"}), OVERLOADED),
    "TGI within a stream": (data({"error": {"message": "Model is overloaded", "http_status_code": 429}}), OVERLOADED),
    "TGI too long": (
        data(
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
                "error_type": "validation",
            }
        ),
        "CONTEXT_TOO_LONG",
    ),
    "TGI failed": (
        data({"error": "Request failed during generation", "error_type": "generation"}),
        "GENERATION_INTERRUPTED",
    ),
    "code 429": (data({"error": {"message": "no", "code": 429}}), OVERLOADED),
    "code 429 in digits": (data({"error": {"message": "no", "code": "429"}}), OVERLOADED),
    "code a word": (data({"error": {"message": "no", "code": "rate_limit_exceeded"}}), OVERLOADED),
    "type a word": (
        data({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        OVERLOADED,
    ),
    "status beside it": (data({"error": "Too many requests", "status": 429}), OVERLOADED),
    "in the choice": (
        data(
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 429, "message": "no"}}]}
        ),
        OVERLOADED,
    ),
    "Google's list": (data([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]), OVERLOADED),
    "event of words": (b"event: error\ndata: server is busy\n\n", OVERLOADED),
    "SGLang's abort": (
        data(chunk(finish={"type": "abort", "message": "The request queue is full.", "status_code": 503})),
        OVERLOADED,
    ),
    "code 503": (data({"error": {"message": "no", "code": 503}}), "MODEL_SERVER_UNAVAILABLE"),
    "loading": (
        data({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        "MODEL_SERVER_UNAVAILABLE",
    ),
    "code 401": (data({"error": {"message": "no", "code": 401}}), "MODEL_SERVER_DENIED"),
    "code 500": (data({"error": {"message": "no", "code": 500}}), "GENERATION_INTERRUPTED"),
    "no word at all": (data({"error": "no"}), "GENERATION_INTERRUPTED"),
    "finish reason": (data(chunk(finish="error")), "GENERATION_INTERRUPTED"),
    "detail": (data({"detail": "no"}), "GENERATION_INTERRUPTED"),
    "event without data": (b"event: error\ndata:\n\n", "GENERATION_INTERRUPTED"),
}
WAITS = (OVERLOADED, "MODEL_SERVER_UNAVAILABLE", "MODEL_SERVER_DENIED")


@pytest.mark.parametrize(("sent", "reason"), ERRORS.values(), ids=ERRORS)
async def test_an_error_in_the_stream_means_what_it_says_until_there_is_text(
    raw: RawModelServer, raw_client: Client, sent: bytes, reason: str
) -> None:
    for before in (b"", b": ping\n\n", data(chunk(""))):
        raw.reply = Reply((before, sent) if before and sent[:1] != b"{" else (sent,))
        failure = (await raw_client.stream(ask("q"))).failure
        assert failure is not None
        assert failure.reason == reason
        if reason in WAITS:
            assert "engine_started" not in failure.metadata, "no attempt"
    if sent[:1] != b"{":
        raw.reply = Reply((P, sent))
        answer = await raw_client.stream(ask("q"))
        assert answer.failure is not None
        # An overload counts against no question, whenever it comes.
        told = reason if reason == OVERLOADED else "GENERATION_INTERRUPTED"
        assert (answer.text, answer.failure.reason) == ("Paris", told)
        assert ("engine_started" in answer.failure.metadata) is (told != OVERLOADED)


@pytest.mark.parametrize("flood", [MUCH, data(chunk("é")), data(chunk("Paris it is. ")), P + b": ping\n\n"])
@pytest.mark.parametrize("unary", [True, False], ids=["unary", "stream"])
async def test_a_server_that_takes_no_notice_of_the_limit_is_stopped_at_it(
    raw: RawModelServer, raw_client: Client, flood: bytes, unary: bool
) -> None:
    raw.reply = Reply((flood,), forever=True)
    spec = ask("q", max_output_tokens=512)
    if unary:
        response = await raw_client.generate(spec)
        text, finish = response.text, response.finish_reason
    else:
        answer = await raw_client.stream(spec)
        assert answer.completed is not None
        text, finish = answer.text, answer.completed.finish_reason
    assert finish == FINISH_REASON_OUTPUT_LIMIT
    assert 512 * _BYTES_A_TOKEN - 1 <= len(text.encode()) <= 512 * _BYTES_A_TOKEN
    await until(lambda: raw.open == 0)
    assert raw.asked == 1


async def test_a_text_has_a_limit_where_nobody_set_one(raw: RawModelServer, raw_client: Client) -> None:
    raw.reply = Reply((MUCH,), forever=True)
    answer = await raw_client.stream(ask("q"))
    assert answer.completed is not None
    assert answer.completed.finish_reason == FINISH_REASON_OUTPUT_LIMIT
    assert len(answer.text) == _UNKNOWN_TOKENS * _BYTES_A_TOKEN
    await until(lambda: raw.open == 0)


async def test_the_last_token_may_be_a_long_one(raw: RawModelServer, raw_client: Client) -> None:
    raw.reply = Reply((data(chunk(" " * 128)), data(chunk(finish="length")), DONE))
    assert whole(await raw_client.stream(ask("q", max_output_tokens=1)), " " * 128, FINISH_REASON_OUTPUT_LIMIT)


async def test_a_body_beyond_the_limit_is_cut_too(raw: RawModelServer, raw_client: Client) -> None:
    body = {
        "object": "chat.completion",
        "choices": [{"message": {"content": "слово " * 5_000}, "finish_reason": "stop"}],
    }
    raw.reply = Reply((data(body)[6:],), content_type="application/json")
    answer = await raw_client.stream(ask("q", max_output_tokens=100))
    assert answer.completed is not None
    assert answer.completed.finish_reason == FINISH_REASON_OUTPUT_LIMIT
    assert answer.text == ("слово " * 5_000).encode()[: 100 * _BYTES_A_TOKEN].decode(errors="ignore")


@pytest.mark.parametrize(
    ("first", "more", "limit"),
    [
        (b"data: ", b"x" * 60_000, MAX_EVENT_BYTES),
        (b'data: {"choices": [{"index": 0, "delta": {"content": "', b"x" * 60_000, MAX_EVENT_BYTES),
        (b": ", b"x" * 60_000, MAX_EVENT_BYTES),
        (b"data: x\n", b"data: x\n" * 1_000, MAX_EVENT_BYTES),
        (b"data\n", b"data\n" * 1_000, MAX_EVENT_BYTES),
        (b"data\r", b"data\r" * 1_000, MAX_EVENT_BYTES),
        (b'{"choices": [', b"1," * 10_000, MAX_BODY_BYTES),
        (b"{\n", b"1,\n" * 10_000, MAX_BODY_BYTES),
    ],
)
async def test_an_event_or_body_without_an_end_costs_one_answer_and_little_memory(
    raw: RawModelServer, raw_client: Client, first: bytes, more: bytes, limit: int
) -> None:
    raw.reply = Reply((first, more), forever=True)
    failure = (await raw_client.stream(ask("q"))).failure
    assert failure is not None
    assert failure.reason == "MODEL_SERVER_INVALID"
    await until(lambda: raw.open == 0)
    assert raw.written < limit + (1 << 20), "what the buffers of the two processes hold beside it"
    raw.reply = Reply((PLAIN,))
    assert whole(await raw_client.stream(ask("q")))


@pytest.mark.alone
async def test_events_without_text_end_with_the_time(raw: RawModelServer, raw_client: Client) -> None:
    thoughts = data({"choices": [{"index": 0, "delta": {"reasoning_content": "x" * 10_000}}]})
    raw.reply = Reply((P, thoughts), forever=True)
    answer = await raw_client.stream(ask("q", time_limit=Duration(seconds=1)))
    assert whole(answer, "Paris", FINISH_REASON_TIME_LIMIT)
    await until(lambda: raw.open == 0)


async def test_many_floods_at_once_cost_little_each(raw: RawModelServer, raw_client: Client) -> None:
    raw.reply = Reply((MUCH,), forever=True)
    answers = await asyncio.gather(*(raw_client.stream(ask("q", max_output_tokens=64)) for _ in range(20)))
    assert {len(answer.text) for answer in answers} == {64 * _BYTES_A_TOKEN}
    await until(lambda: raw.open == 0)
