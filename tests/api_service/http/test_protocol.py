"""What the process itself limits, where no proxy stands in front: raw bytes over a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from fastapi import FastAPI, Request

from api_service.http.problems import MEDIA_TYPE
from api_service.http.protocol import MAX_HEAD_BYTES, MAX_HEADERS, LimitedProtocol
from tests.api_service.serving import running

pytestmark = pytest.mark.loopback

GET = b"GET /alive HTTP/1.1\r\nHost: test\r\n"


_HURRY_SECONDS = 0.2
"""For so long a head or a body is waited for in these tests."""


def application(slow_until: asyncio.Event | None = None) -> FastAPI:
    app = FastAPI()

    @app.get("/alive")
    async def alive() -> str:
        return "alive"

    @app.get("/slow")
    async def slow() -> str:
        assert slow_until is not None
        await slow_until.wait()
        return "slow"

    @app.post("/unread")
    async def unread() -> str:
        return "unread"

    @app.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    return app


class Client:
    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port, self.reader, self.writer = port, reader, writer

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
            return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        """Whether the server closes it soon, and says nothing more."""
        async with asyncio.timeout(30):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def connected(max_connections: int = 100, slow_until: asyncio.Event | None = None) -> AsyncIterator[Client]:
    async with running(application(slow_until), max_connections) as (url, _):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Client(port, reader, writer)
        writer.close()


async def assert_refused(client: Client, status: int, said: str) -> None:
    seen, headers, body = await client.reply()
    problem = orjson.loads(body)
    assert (seen, problem["status"], headers["content-type"], headers["connection"]) == (
        status,
        status,
        MEDIA_TYPE,
        "close",
    )
    assert said in problem["detail"]
    assert problem["request_id"] == headers["x-request-id"]
    assert await client.is_closed()


@pytest.fixture
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_service.http.protocol.HEAD_SECONDS", _HURRY_SECONDS)
    monkeypatch.setattr("api_service.http.protocol.BODY_SECONDS", _HURRY_SECONDS)


@pytest.mark.usefixtures("_in_a_hurry")
@pytest.mark.parametrize("begun", [b"", b"G", GET, GET + b"X-Long: a"])
async def test_a_head_that_does_not_arrive_is_not_waited_for(begun: bytes) -> None:
    async with connected() as client:
        client.writer.write(begun)
        assert await client.is_closed()


@pytest.mark.usefixtures("_in_a_hurry")
async def test_a_head_that_drips_is_not_waited_for() -> None:
    async with connected() as client:
        client.writer.write(GET)

        async def drip() -> None:
            while True:
                client.writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await client.is_closed()
        dripping.cancel()


@pytest.mark.usefixtures("_in_a_hurry")
async def test_a_second_head_on_a_connection_has_its_own_time() -> None:
    async with connected() as client:
        client.writer.write(GET + b"\r\n")
        assert (await client.reply())[0] == 200
        # Longer than a head may take, and nothing happens: between requests, the keep-alive time counts. The server's
        # timers are of this loop and would be due before.
        await asyncio.sleep(1.25 * _HURRY_SECONDS)
        client.writer.write(GET + b"\r\n")
        assert (await client.reply())[0] == 200
        client.writer.write(GET)
        assert await client.is_closed()


@pytest.mark.usefixtures("_in_a_hurry")
async def test_a_body_that_nobody_reads_may_not_drip_for_ever() -> None:
    async with connected() as client:
        client.writer.write(b"POST /unread HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        assert (await client.reply())[0] == 200

        async def drip() -> None:
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await client.is_closed()
        dripping.cancel()


@pytest.mark.usefixtures("_in_a_hurry")
async def test_a_response_that_takes_longer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    time_is_up = asyncio.Event()
    end = LimitedProtocol._end

    def noted_end(protocol: LimitedProtocol, seconds: float) -> None:
        end(protocol, seconds)
        time_is_up.set()

    monkeypatch.setattr(LimitedProtocol, "_end", noted_end)
    async with connected(slow_until=time_is_up) as client:
        client.writer.write(GET.replace(b"alive", b"slow") + b"\r\n" + GET)
        assert (await client.reply())[2] == b'"slow"'
        client.writer.write(b"\r\n")
        assert (await client.reply())[2] == b'"alive"'


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X-Long: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        GET + b"".join(b"X-%d: a\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        GET + b"X-Endless: " + b"a" * 1_000_000,
        b"GET /" + b"a" * 1_000_000,
        GET + b"X-A: b\r\n" * 100_000,
    ],
    ids=["a long header", "many headers", "a long URL", "an endless header", "an endless URL", "endless headers"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    async with connected() as client:
        client.writer.write(head)
        await assert_refused(client, 431, "Shorten it")


async def test_the_largest_head_is_read_and_large_bodies_are_no_heads() -> None:
    async with connected() as client:
        filling = b"X-Long: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\n"
        body = b"x" * 10 * MAX_HEAD_BYTES
        client.writer.write(GET + filling + b"\r\n")
        assert (await client.reply())[0] == 200
        size = b"Content-Length: %d\r\n\r\n" % len(body)
        client.writer.write(b"POST /read HTTP/1.1\r\nHost: test\r\n" + size + body + GET + b"\r\n")
        assert (await client.reply())[2] == str(len(body)).encode()
        assert (await client.reply())[0] == 200


async def test_what_is_no_http_is_a_problem() -> None:
    async with connected() as client:
        client.writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        await assert_refused(client, 400, "not valid HTTP")


async def test_connections_beyond_the_limit_are_told_so_and_the_others_go_on() -> None:
    async with connected(max_connections=3) as client:
        others = [await asyncio.open_connection("127.0.0.1", client.port) for _ in range(2)]
        client.writer.write(GET + b"\r\n")
        assert (await client.reply())[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        await assert_refused(Client(client.port, reader, writer), 503, "as many connections as it may")
        writer.close()
        for _, other in others:
            other.close()
        client.writer.write(GET + b"\r\n")
        assert (await client.reply())[0] == 200

        async def is_served() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(GET + b"\r\n")
            status, _, _ = await Client(client.port, reader, writer).reply()
            writer.close()
            return status == 200

        async with asyncio.timeout(30):
            while not await is_served():
                await asyncio.sleep(0.01)
