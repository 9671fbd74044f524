"""HEAD, as in ``curl -I`` and in what watches over servers: GET without the body."""

import asyncio

import pytest
from aiohttp import ClientResponse, ClientSession
from starlette.types import Message, Receive, Scope, Send

from api_service.http.middleware import HeadRequests
from tests.api_service.sse import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")


def seen(response: ClientResponse) -> tuple[int, dict[str, str]]:
    own = ("Date", "X-Request-ID")
    return response.status, {name: value for name, value in response.headers.items() if name not in own}


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/openapi.json", "/api/answer/{id}", "/api/answer/0", "/api/nowhere", "/api/ask"]
)
async def test_head_gives_what_get_gives_without_the_body(streams: ClientSession, words: str, path: str) -> None:
    path = path.format(id=await ask(streams, words))
    async with streams.get(path) as response:
        expected = seen(response)
    async with streams.head(path) as response:
        assert seen(response) == expected
        assert await response.read() == b""


async def test_head_of_a_stream_does_not_wait_for_its_end(streams: ClientSession, words: str) -> None:
    async with streams.head(f"/api/answer/{await ask(streams, words)}/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"


async def test_a_stream_that_head_asked_for_ends_as_if_its_reader_had_left() -> None:
    completed = asyncio.Event()
    sent: list[Message] = []

    async def stream(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await send({"type": "http.response.body", "body": b"text", "more_body": False})

    async def receive() -> Message:  # as uvicorn: a response that is complete has no reader
        await completed.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            completed.set()

    await HeadRequests(stream)({"type": "http", "method": "HEAD"}, receive, send)
    assert [message.get("body") for message in sent] == [None, b""]
