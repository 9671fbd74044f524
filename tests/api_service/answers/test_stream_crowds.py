"""Many readers of one answer, and some that do not read."""

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, TCPConnector
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from api_service.core.live_text import LiveText
from api_service.http import server as server_module
from api_service.http.protocol import MOST_BUFFERED_BYTES
from api_service.http.server import ApiServer
from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from questions.reading import Question
from tests.api_service import worker_actions
from tests.api_service.serving import running, serving, settings_for, until
from tests.api_service.sse import ask, text_of, watching
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

READERS = 1_000
PIECE = "0123456789abcdef" * 4_096
PIECES = 120
"""More than the 4 MB that the system may buffer for a connection."""


@contextmanager
def one_who_does_not_read(url: str, question_id: int) -> Iterator[socket.socket]:
    """A connection that asks for a stream and never takes any of it from the network."""
    address = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((address.hostname, address.port))
        client.sendall(f"GET /api/answer/{question_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield client


async def test_a_thousand_read_one_answer_in_one_process(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    async with (
        serving(settings_for(api_database_url, valkey)) as url,
        ClientSession(url, connector=TCPConnector(limit=0)) as api,
    ):
        question_id = await ask(api, words)
        writer = await Writer.begin(api_engine, api_redis, words)
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
            calls = await commands(api_redis)
            for piece in ("says ", "🙂 ", "so."):
                await writer.write(piece)
            await writer.complete()
            async with asyncio.timeout(60):
                seen = await asyncio.gather(*readers)
        assert set(seen[1::2]) == {"says 🙂 so."}
        assert set(seen[::2]) <= {"It says 🙂 so.", "says 🙂 so."}  # the first event can be the status or the delta
        # Four by the writer; the process reads again at most each other second, whoever many read along.
        assert await commands(api_redis) - calls < 40


async def commands(redis: MeshRedis) -> int:
    """How many scripts Redis has run: each read and each write is one."""
    calls: int = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    return calls


def held_bytes(server: ApiServer) -> int:
    """The most that the server holds for a connection that does not take it."""
    return max(connection.transport.get_write_buffer_size() for connection in server.server_state.connections)


async def test_who_does_not_read_costs_little_memory_and_nobody_else_anything(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    async with running(create_app(settings_for(api_database_url, valkey))) as (url, server), ClientSession(url) as api:
        question_id = await ask(api, words)
        writer = await Writer.begin(api_engine, api_redis, words)
        with one_who_does_not_read(url, question_id):
            async with watching(api, question_id) as stream:
                for _ in range(PIECES):
                    await writer.write(PIECE)
                assert await stream.text(len(writer.text)) == writer.text

                async def is_stalled() -> bool:
                    return held_bytes(server) > 0

                await until(is_stalled)
                assert held_bytes(server) <= 3 * MOST_BUFFERED_BYTES
                await writer.write(" The end.")
                await writer.complete()
                assert text_of(await stream.rest()) == " The end."


async def test_many_who_do_not_read_a_finished_answer_share_its_text(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, words: str
) -> None:
    async with running(create_app(settings_for(api_database_url, valkey))) as (url, server), ClientSession(url) as api:
        question_id = await ask(api, words)
        whole = PIECE * 40
        await worker_actions.complete(api_engine, words, whole)
        others = set(server.server_state.connections)
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(one_who_does_not_read(url, question_id))

            async def all_are_stalled() -> bool:
                stalled = server.server_state.connections - others
                return len(stalled) == 20 and all(one.transport.get_write_buffer_size() for one in stalled)

            await until(all_are_stalled)
            assert held_bytes(server) <= 3 * MOST_BUFFERED_BYTES
            for connection in server.server_state.connections - others:
                sending = connection.transport.get_extra_info("socket")
                of_system = sending.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                assert of_system <= 131_072, "Linux doubles what it is asked for"

            async def its_text_is_there_once() -> bool:  # once it has been put into the cache, too
                gc.collect()
                kept = [one for one in gc.get_objects() if isinstance(one, Question) and one.id == question_id]
                texts = [one for one in gc.get_objects() if isinstance(one, LiveText) and len(one.data) == len(whole)]
                return len({id(one.text) for one in kept if one.text}) == len(texts) == 1

            await until(its_text_is_there_once)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux drops who does not read")
async def test_who_does_not_read_is_dropped(
    api_database_url: str,
    valkey: Valkey,
    api_engine: AsyncEngine,
    api_redis: MeshRedis,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "_STALLED_SECONDS", 1)
    async with running(create_app(settings_for(api_database_url, valkey))) as (url, server), ClientSession(url) as api:
        question_id = await ask(api, words)
        others = set(server.server_state.connections)
        with one_who_does_not_read(url, question_id):

            async def is_there() -> bool:
                return bool(server.server_state.connections - others)

            await until(is_there)
            writer = await Writer.begin(api_engine, api_redis, words)
            for _ in range(PIECES):
                await writer.write(PIECE)

            async def is_dropped() -> bool:
                return not await is_there()

            await until(is_dropped)
