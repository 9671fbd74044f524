"""Streams while Redis or the API is killed, emptied, frozen or told to stop."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from tests.api_service.serving import serving, settings_for, until
from tests.api_service.sse import Event, Stream, ask, read, text_of, watch, watching
from tests.api_service.worker_actions import complete, stored
from tests.api_service.writing import Writer
from tests.servers import redis_at

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey to kill and to freeze."""
    with Valkey(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mortal_redis(mortal: Valkey) -> AsyncIterator[MeshRedis]:
    client: MeshRedis = redis_at(mortal.url())
    yield client
    await client.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mortal_streams(api_database_url: str, mortal: Valkey) -> AsyncIterator[ClientSession]:
    async with serving(settings_for(api_database_url, mortal)) as url, ClientSession(url) as client:
        yield client


@contextmanager
def frozen(server: Valkey) -> Iterator[None]:
    """A server that takes connections and says nothing."""
    os.kill(server._child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server._child.pid, signal.SIGCONT)


async def back(redis: MeshRedis) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await redis.ping()
            except (RedisError, OSError):
                await asyncio.sleep(0.01)
            else:
                return


async def end_unheard(writer: Writer, stream: Stream, expected: str) -> Event:
    """Complete the answer while Redis is away: the stream has all of it all the same."""
    writer.text += expected
    await writer.complete(tell=False)
    events = await stream.rest()
    assert text_of(events) == expected
    return events[-1]


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_redis_a_stream_ends_with_all_of_the_text(
    mortal_streams: ClientSession,
    api_engine: AsyncEngine,
    mortal_redis: MeshRedis,
    mortal: Valkey,
    words: str,
    how: str,
) -> None:
    question_id = await ask(mortal_streams, words)
    writer = await Writer.begin(api_engine, mortal_redis, words)
    async with watching(mortal_streams, question_id) as stream:
        await writer.write("It ")
        assert await stream.text(3) == "It "
        if how == "frozen":
            with frozen(mortal):
                async with watching(
                    mortal_streams, question_id, "0:3"
                ) as late:  # opens, though its cursor cannot be checked
                    final = await end_unheard(writer, stream, "says so.")
                    assert text_of(await late.rest()) == "says so."
        else:
            mortal.kill()
            try:
                final = await end_unheard(writer, stream, "says so.")
                assert text_of(await watch(mortal_streams, question_id)) == "It says so."
            finally:
                mortal.start()
    await back(mortal_redis)
    assert final.data == await read(mortal_streams, question_id)


@pytest.mark.parametrize("how", ["killed", "flushed", "frozen"])
async def test_a_stream_goes_on_when_redis_is_back(
    mortal_streams: ClientSession,
    api_engine: AsyncEngine,
    mortal_redis: MeshRedis,
    mortal: Valkey,
    words: str,
    how: str,
) -> None:
    question_id = await ask(mortal_streams, words)
    writer = await Writer.begin(api_engine, mortal_redis, words)
    async with watching(mortal_streams, question_id) as stream:
        await writer.write("It ")
        assert await stream.text(3) == "It "
        if how == "killed":
            mortal.kill()
            mortal.start()
        elif how == "flushed":
            await mortal_redis.flushdb()
        else:
            with frozen(mortal), pytest.raises(RedisError):  # a call takes no longer than this
                await mortal_redis.ping()
        await back(mortal_redis)
        async with watching(mortal_streams, question_id, "0:3") as late:
            if how != "frozen":
                await writer.restore()
            await writer.write("says ", "so.")
            assert await stream.text(8) == await late.text(8) == "says so."
            await writer.complete()
            assert [event.name for event in await stream.rest()] == ["completed"]
            assert [event.name for event in await late.rest()] == ["completed"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_who_asks_and_waits_gets_the_answer_though_redis_goes_away(
    mortal_streams: ClientSession,
    api_engine: AsyncEngine,
    mortal_redis: MeshRedis,
    mortal: Valkey,
    words: str,
    how: str,
) -> None:
    async def ask_and_wait() -> tuple[int, str]:
        async with mortal_streams.post("/api/ask?wait=60", json={"question_text": words}) as response:
            return response.status, (await response.json())["answer_text"]

    waiting = asyncio.create_task(ask_and_wait())
    await until(lambda: stored(api_engine, words))
    if how == "killed":
        mortal.kill()
    with frozen(mortal) if how == "frozen" else nullcontext():
        await complete(api_engine, words, "It says so.")
        assert await waiting == (200, "It says so.")
    if how == "killed":
        mortal.start()
    await back(mortal_redis)


class Process:
    """``python -m api_service`` on a port of its own."""

    def __init__(self, database_url: str, valkey: Valkey, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "ASKMESH_DATABASE_URL": database_url,
            "ASKMESH_REDIS_URL": valkey.url(),
            "ASKMESH_BROKER_URL": valkey.broker_url,
            "ASKMESH_API_PORT": str(port),
        }
        with log.open("wb") as output:
            command = [sys.executable, "-m", "api_service"]
            self.child = subprocess.Popen(command, env=os.environ | settings, stderr=output)


@asynccontextmanager
async def two_processes(database_url: str, valkey: Valkey, folder: Path) -> AsyncIterator[list[Process]]:
    processes = [Process(database_url, valkey, folder / f"{number}.log") for number in range(2)]
    try:
        async with asyncio.timeout(60), ClientSession() as client:
            for process in processes:
                while not await is_up(client, process):
                    await asyncio.sleep(0.05)
        yield processes
    finally:
        for process in processes:
            process.child.kill()
            process.child.wait()


async def is_up(client: ClientSession, process: Process) -> bool:
    assert process.child.poll() is None
    try:
        async with client.get(f"{process.url}/livez") as response:
            return response.status == 200
    except ClientError:
        return False


async def test_a_stream_is_resumed_elsewhere_when_its_process_is_killed_or_stopped(
    api_database_url: str, api_engine: AsyncEngine, mortal_redis: MeshRedis, mortal: Valkey, words: str, tmp_path: Path
) -> None:
    async with (
        two_processes(api_database_url, mortal, tmp_path) as (first, second),
        ClientSession(first.url) as one,
        ClientSession(second.url) as other,
    ):
        question_id, left_alone = await ask(one, words), await ask(one, words + "?")
        writer = await Writer.begin(api_engine, mortal_redis, words)
        await writer.write("It ")
        seen: list[Event] = []
        async with watching(one, question_id) as stream:
            while not seen or seen[-1].name != "delta":
                seen.append(await stream.next())
            first.child.kill()
            with pytest.raises(ClientError):
                await stream.rest()
        await writer.write("says ")

        async def poll() -> str:
            async with other.get(f"/api/answer/{left_alone}?wait=60") as response:
                status: str = (await response.json())["status"]
                return status

        async def ask_and_wait() -> tuple[int, str | None, str]:
            async with other.post("/api/ask?wait=60", json={"question_text": words + "!"}) as response:
                return response.status, response.headers.get("Location"), (await response.json())["status"]

        waiting, asking = asyncio.create_task(poll()), asyncio.create_task(ask_and_wait())
        await until(lambda: stored(api_engine, words + "!"))
        async with watching(other, question_id, seen[-1].id) as stream:
            while text_of(seen) != "It says ":
                seen.append(await stream.next())
            async with asyncio.timeout(30):
                while not await mortal_redis.pubsub_channels(mortal_redis.name("text", "*")):
                    await asyncio.sleep(0.01)
            second.child.terminate()
            assert await stream.rest() == []  # a whole response, without a last event
            assert await waiting == "queued"
            (asked,) = await stored(api_engine, words + "!")
            assert await asking == (202, f"/api/answer/{asked}", "queued")
        assert await asyncio.to_thread(second.child.wait, 20) == 0
        async with serving_again(api_database_url, mortal) as third:
            last_id = [event.id for event in seen if event.id][-1]
            async with watching(third, question_id, last_id) as stream:
                await writer.write("so.")
                await writer.complete()
                seen += await stream.rest()
    assert text_of(seen) == "It says so."
    assert seen[-1].name == "completed"


@asynccontextmanager
async def serving_again(database_url: str, valkey: Valkey) -> AsyncIterator[ClientSession]:
    async with serving(settings_for(database_url, valkey)) as url, ClientSession(url) as client:
        yield client
