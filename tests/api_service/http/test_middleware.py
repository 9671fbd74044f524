import asyncio
import re
import traceback

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_service.http.middleware import BodyLimit, BrokenOffError, RequestIds
from api_service.http.problems import Problem
from tests.api_service.asgi import call

LIMIT = 10


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(await Request(scope, receive).body())(scope, receive, send)


def limited(app: ASGIApp = echo) -> ASGIApp:
    return RequestIds(BodyLimit(app, LIMIT))


@pytest.mark.parametrize("chunks", [[], [b"0123456789"], [b"01234", b"", b"56789"]])
async def test_a_body_within_the_limit_passes(chunks: list[bytes]) -> None:
    reply = await call(limited(), "POST", chunks=chunks)
    assert (reply.status, reply.body) == (200, b"".join(chunks))


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "11"}, {"Content-Length": "99999999999999999999"}])
async def test_a_body_beyond_the_limit_is_refused(headers: dict[str, str]) -> None:
    reply = await call(limited(), "POST", headers=headers, chunks=[b"01234", b"56789", b"0"])
    problem = Problem.model_validate_json(reply.body)
    assert (reply.status, problem.code) == (413, "body_too_large")
    assert problem.detail == "The body may have at most 10 bytes. Shorten it."
    assert reply.headers["connection"] == "close"


async def test_a_declared_length_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_service.http.middleware._LINGER_SECONDS", 0.01)
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        assert received == 0 or not message.get("more_body")

    scope = {"type": "http", "headers": [(b"content-length", b"11")], "state": {}}
    await limited()(scope, receive, send)
    assert sent[0]["status"] == 413
    assert received == 1  # what the client still sends is thrown away for a moment


async def test_the_rest_of_a_refused_body_is_read_before_the_connection_closes() -> None:
    chunks = [b"x" * 6] * 5
    events: list[str] = []

    async def receive() -> Message:
        events.append("receive")
        body = chunks.pop()
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def send(message: Message) -> None:
        events.append(message["type"])

    await limited()({"type": "http", "headers": [], "state": {}}, receive, send)
    start, body = "http.response.start", "http.response.body"
    assert events == ["receive", "receive", start, body, "receive", "receive", "receive", body]


async def test_a_request_keeps_the_name_that_its_caller_gave_it() -> None:
    name = "Aa0._:-" + "x" * 121
    assert (await call(limited(), headers={"X-Request-ID": name})).headers["x-request-id"] == name


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "a\nb", "é", "a;b"])
async def test_a_name_that_could_harm_a_log_is_replaced(name: str) -> None:
    given = (await call(limited(), headers={"X-Request-ID": name})).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", given)


async def test_each_request_has_a_name_of_its_own() -> None:
    names = {(await call(limited())).headers["x-request-id"] for _ in range(10)}
    assert len(names) == 10


async def test_an_error_after_the_response_has_begun_breaks_it_off_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    with pytest.raises(BrokenOffError) as broken_off:
        await call(limited(half))
    assert "half way" not in "".join(traceback.format_exception(broken_off.value))
    assert not any(record.getMessage().endswith("half way") or record.exc_info for record in caplog.records)
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_is_no_request_passes(kind: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope)

    async def never() -> Message:
        raise AssertionError

    async def nothing(_message: Message) -> None:
        raise AssertionError

    await limited(app)({"type": kind}, never, nothing)
    assert seen == [{"type": kind}]
