"""What a client can do to a connection, with bytes that no HTTP library would send."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api_service import worker_actions

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = b"POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ALIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(30):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def is_closed(self) -> bool:
        """Whether the server closes it, now or soon. It must not reset it."""
        async with asyncio.timeout(30):
            return await self._reader.read() == b""


@asynccontextmanager
async def connected(api: ClientSession) -> AsyncIterator[Connection]:
    url = api._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def sized(body: bytes) -> bytes:
    return ASK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def question(words: str) -> bytes:
    return orjson.dumps({"question_text": words})


async def test_a_body_may_come_in_any_pieces(api: ClientSession, words: str) -> None:
    body = question(words)
    async with connected(api) as connection:
        await connection.send(ASK + b"Transfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            await connection.send(b"1;extension=x\r\n%c\r\n" % byte)
        await connection.send(b"0\r\nTrailer: x\r\n\r\n")
        assert (await connection.response())[0] == 202
        await connection.send(ALIVE)
        assert (await connection.response())[0] == 200


async def test_requests_that_come_at_once_are_answered_in_turn(api: ClientSession, words: str) -> None:
    async with connected(api) as connection:
        await connection.send(sized(question(words)) + ALIVE + sized(b"{"))
        assert [(await connection.response())[0] for _ in range(3)] == [202, 200, 400]


async def test_an_endless_chunked_body_is_refused_as_soon_as_it_is_too_large(
    api: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_service.http.middleware._LINGER_SECONDS", 0.01)
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    async with connected(api) as connection:
        await connection.send(ASK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9)
        status, headers, body = await connection.response()
        assert (status, headers["connection"]) == (413, "close")
        assert orjson.loads(body)["code"] == "body_too_large"
        assert await connection.is_closed()


async def test_a_client_that_sends_on_after_a_refusal_still_gets_it(api: ClientSession) -> None:
    async with connected(api) as connection:
        await connection.send(ASK + b"Content-Length: 1000000\r\n\r\n" + b" " * 600_000)
        status, _, body = await connection.response()
        assert (status, orjson.loads(body)["code"]) == (413, "body_too_large")
        await connection.send(b" " * 400_000)
        assert await connection.is_closed()


async def test_a_client_that_waits_for_leave_to_send_is_refused_first(api: ClientSession) -> None:
    async with connected(api) as connection:
        await connection.send(ASK + b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
        assert (await connection.response())[0] == 413


async def test_a_client_that_leaves_in_the_middle_of_its_body_changes_nothing(
    api: ClientSession, api_engine: AsyncEngine, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = await worker_actions.rows(api_engine)
    for sent in (sized(question(words))[:-5], ASK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", ASK[:-10]):
        async with connected(api) as connection:
            await connection.send(sent)
    async with connected(api) as connection:
        await connection.send(ALIVE)
        assert (await connection.response())[0] == 200
    assert await worker_actions.rows(api_engine) == before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_body_that_stops_coming_is_given_up(api: ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_service.answers.dependencies._BODY_SECONDS", 0.05)
    async with connected(api) as connection:
        await connection.send(ASK + b"Content-Length: 100\r\n\r\n{")
        status, headers, body = await connection.response()
        assert (status, headers["connection"], orjson.loads(body)["code"]) == (408, "close", "body_timeout")
        assert await connection.is_closed()


OFFERS = {
    "h2c, as Java's HttpClient": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "h2c, oddly written": b"upgrade: H2C\r\nconnection: keep-alive,UPGRADE\r\n",
    "a web socket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n",
    "an offer that is none, without Connection": b"Upgrade: h2c\r\n",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("cut", ["whole", "by byte", "after the head"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
async def test_an_offer_to_change_the_protocol_is_ignored(
    api: ClientSession, words: str, offer: bytes, cut: str, chunked: bool
) -> None:
    body = question(words)
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % len(body)
    asked = ASK + offer + head
    async with connected(api) as connection:
        # The same connection goes on as it would have without.
        for get in (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + offer + b"\r\n", b""):
            pieces = {
                "whole": [asked + framed + get],
                "by byte": [bytes([byte]) for byte in asked + framed + get],
                "after the head": [asked, framed + get],
            }[cut]
            for piece in pieces:
                await connection.send(piece)
                await asyncio.sleep(0)  # the server reads what is there
            status, _, content = await connection.response()
            assert (status, "question_id" in orjson.loads(content)) == (202, True)
            if get:
                assert (await connection.response())[0] == 200


@pytest.mark.parametrize(
    ("framing", "body", "expected"),
    [
        (b"Content-Length: 0\r\n", b"", 400),
        (b"", b"", 400),
        (b"Content-Length: 3\r\n", b"{}", None),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"", 400),
    ],
    ids=["empty", "no body", "cut short", "no chunk", "two lengths", "two other lengths"],
)
async def test_an_offer_changes_nothing_of_what_is_refused(
    api: ClientSession, monkeypatch: pytest.MonkeyPatch, framing: bytes, body: bytes, expected: int | None
) -> None:
    monkeypatch.setattr("api_service.answers.dependencies._BODY_SECONDS", 0.2)
    seen = []
    for offer in (b"", OFFERS["h2c, as Java's HttpClient"]):
        async with connected(api) as connection:
            await connection.send(ASK + offer + framing + b"\r\n" + body)
            seen.append((await connection.response())[0])
    assert seen[0] == seen[1] == (expected or 408)


async def test_an_offer_of_a_connection_that_closes_is_closed(api: ClientSession, words: str) -> None:
    offer = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"
    body = question(words)
    async with connected(api) as connection:
        await connection.send(ASK + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (await connection.response())[0] == 202
        assert await connection.is_closed()


async def test_http_1_0_is_answered_and_closed(api: ClientSession, words: str) -> None:
    async with connected(api) as connection:
        await connection.send(sized(question(words)).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await connection.response())[0] == 202
        assert await connection.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ASK + b"Content-Length: -1\r\n\r\n",
        ASK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ASK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        ASK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        ASK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_changes_nothing(
    api: ClientSession, api_engine: AsyncEngine, sent: bytes
) -> None:
    before = await worker_actions.rows(api_engine)
    async with connected(api) as connection:
        await connection.send(sent)
        assert (await connection.response())[0] in (400, 404)
    assert await worker_actions.rows(api_engine) == before
