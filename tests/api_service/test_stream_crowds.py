"""Many readers of one answer, and some that do not read."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, TCPConnector
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service import server as server_module
from api_service.app import create_app
from api_service.server import ApiServer
from embedded.valkey import Valkey
from tests.api_service.serving import running, serving, settings_for, until
from tests.api_service.sse import ask, text_of, watching
from tests.api_service.writing import Writer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

READERS = 1_000
PIECE = "0123456789abcdef" * 1_024


@contextmanager
def one_who_does_not_read(url: str, question_id: int) -> Iterator[socket.socket]:
    """A connection that asks for a stream and never takes any of it from the network."""
    address = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((address.hostname, address.port))
        client.sendall(f"GET /api/answer/{question_id}/events HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        yield client


async def test_a_thousand_read_one_answer_in_one_process(
    database_url: str, valkey: Valkey, engine: AsyncEngine, redis: Redis, words: str
) -> None:
    async with (
        serving(settings_for(database_url, valkey)) as url,
        ClientSession(url, connector=TCPConnector(limit=0)) as api,
    ):
        question_id = await ask(api, words)
        writer = await Writer.begin(engine, redis, words)
        await writer.write("It ")
        begun = 0

        async def follow(number: int) -> str:
            nonlocal begun
            async with watching(api, question_id, "0:3" if number % 2 else None) as stream:
                await stream.next()
                begun += 1
                events = await stream.rest()
                assert events[-1].name == "completed"
                return text_of(events)

        async def all_have_begun() -> bool:
            return begun == READERS

        with one_who_does_not_read(url, question_id):
            readers = [asyncio.create_task(follow(number)) for number in range(READERS)]
            await until(all_have_begun)
            calls = await commands(redis)
            for piece in ("says ", "🙂 ", "so."):
                await writer.write(piece)
            await writer.complete()
            async with asyncio.timeout(60):
                seen = await asyncio.gather(*readers)
        assert set(seen[1::2]) == {"says 🙂 so."}
        assert set(seen[::2]) <= {"It says 🙂 so.", "says 🙂 so."}  # the first event can be the status or the delta
        # Four by the writer; the process reads again at most each other second, whoever many read along.
        assert await commands(redis) - calls < 40


async def commands(redis: Redis) -> int:
    """How many scripts Redis has run: each read and each write is one."""
    calls: int = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    return calls


async def stalled_bytes(server: ApiServer) -> list[int]:
    """What the server holds for each connection that does not take it."""
    return [connection.transport.get_write_buffer_size() for connection in server.server_state.connections]


async def test_who_does_not_read_costs_little_memory_and_is_dropped(
    database_url: str,
    valkey: Valkey,
    engine: AsyncEngine,
    redis: Redis,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "_STALLED_SECONDS", 2)
    async with running(create_app(settings_for(database_url, valkey))) as (url, server), ClientSession(url) as api:
        question_id = await ask(api, words)
        writer = await Writer.begin(engine, redis, words)
        with one_who_does_not_read(url, question_id):
            async with watching(api, question_id) as stream:
                for _ in range(200):  # 3 MB, more than the system's buffers take
                    await writer.write(PIECE)
                assert await stream.text(len(writer.text)) == writer.text

                async def is_stalled() -> bool:
                    return max(await stalled_bytes(server)) > 0

                await until(is_stalled)
                assert max(await stalled_bytes(server)) < 200_000
                await writer.write(" The end.")
                await writer.complete()
                assert text_of(await stream.rest()) == " The end."
            if hasattr(socket, "TCP_USER_TIMEOUT"):

                async def is_dropped() -> bool:
                    return max(await stalled_bytes(server), default=0) == 0

                await until(is_dropped)
