"""An API in whose Redis somebody writes rubbish, or of which a part breaks."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from asyncpg.exceptions import InvalidPasswordError
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from api_service.http.server import ApiServer
from embedded.valkey import Valkey
from foundation.background import Background
from foundation.postgresql.database import create_engine
from foundation.redis import MeshRedis
from foundation.settings import DatabaseSettings
from tests.api_service.serving import running, serving, settings_for, until
from tests.api_service.sse import ask, read, text_of, watching
from tests.api_service.writing import Writer
from tests.servers import Databases, execute, redis_at

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUBBISH = [
    b"",
    b"hello",
    b"1:2",
    b"-1",
    b"\xff\xfe",
    b'{"id": 1}',
    b"9" * 5_000,
    b"0:x:y",
    b"0:0:\xff",
    b"v2:0:0:text",
    b"1:2:3:4",
    b"9:0:hello",
    b"0:99:x",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_api(
    api_database_url: str, valkey: Valkey, api_redis: MeshRedis
) -> AsyncIterator[tuple[str, ApiServer]]:
    """An API that looks into PostgreSQL once and then never again: what it learns, Redis tells."""
    del api_redis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api_service.core.watcher._LOOK_SECONDS", 3_600)
        async with running(create_app(settings_for(api_database_url, valkey))) as api:
            yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_streams(running_api: tuple[str, ApiServer]) -> AsyncIterator[ClientSession]:
    async with ClientSession(running_api[0]) as client:
        yield client


async def test_rubbish_on_the_channels_delays_no_answer(
    running_streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(running_streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    async with watching(running_streams, question_id) as stream:
        await writer.write("It ")
        assert await stream.text(3) == "It "
        for rubbish in RUBBISH:
            for channel in ("final", "ended", f"text:{writer.answer_id}", "echo:0"):
                await api_redis.publish(api_redis.name(channel), rubbish)
                await api_redis.publish(f"askmesh:{channel}", rubbish)  # as another program, or a release before
            await api_redis.rpush(api_redis.name("wakeups"), rubbish)
        await api_redis.publish(api_redis.name("final"), f"x,{writer.answer_id},")

        async def wait() -> str:
            async with running_streams.get(f"/api/answer/{question_id}?wait=60") as response:
                status: str = (await response.json())["status"]
                return status

        waiting = asyncio.create_task(wait())
        await writer.write("says ", "so.")
        assert await stream.text(8) == "says so."
        await writer.complete()
        assert [event.name for event in await stream.rest()] == ["completed"]
        assert await asyncio.wait_for(waiting, 30) == "completed"
    async with running_streams.get("/livez") as response:
        assert response.status == 200


@pytest.mark.parametrize("kind", ["text", "usage", "question", "requests"])
async def test_rubbish_in_the_keys_costs_no_answer(
    running_streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str, kind: str
) -> None:
    question_id = await ask(running_streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    async with watching(running_streams, question_id) as stream:
        await writer.write("It ")
        assert await stream.text(3) == "It "
        if kind == "text":
            await api_redis.delete(api_redis.name("answer", writer.answer_id, "text"))
            await api_redis.rpush(api_redis.name("answer", writer.answer_id, "text"), "hello")
            await writer.restore()
        elif kind == "usage":
            await api_redis.hset(api_redis.name("answer", writer.answer_id), mapping={"usage": "hello", "more": "x"})
        elif kind == "question":
            await api_redis.rpush(api_redis.name("question", 2, question_id), "hello")
        else:
            for key in [key async for key in api_redis.scan_iter(api_redis.name("requests", "*"))]:
                await api_redis.set(key, "hello")
        await writer.write("says so.")
        await writer.complete()
        events = await stream.rest()
        assert text_of(events) == "says so."
        assert events[-1].data == await read(running_streams, question_id) == await read(running_streams, question_id)


async def test_a_part_that_always_breaks_takes_livez_with_it_until_it_runs(
    running_streams: ClientSession, running_api: tuple[str, ApiServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundation.background._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("foundation.background._LONGEST_PAUSE_SECONDS", 0.01)
    background: Background = running_api[1].lifespan.state["background"]
    mended = asyncio.Event()

    async def breaks() -> None:
        if not mended.is_set():
            raise ValueError("a defect")
        await asyncio.Event().wait()

    async def livez() -> tuple[int, dict[str, object]]:
        async with running_streams.get("/livez") as response:
            return response.status, await response.json()

    background.run("a part of this test", breaks)

    async def is_broken() -> bool:
        return (await livez())[0] == 503

    await until(is_broken)
    problem = (await livez())[1]
    assert (problem["code"], problem["retryable"]) == ("process_broken", True)
    assert problem["detail"] == "Restart this process: a part of it fails repeatedly: a part of this test."
    async with running_streams.get("/readyz") as response:
        assert response.status == 200
    monkeypatch.setattr("foundation.background._SOUND_SECONDS", 0.01)
    mended.set()

    async def is_sound() -> bool:
        return await livez() == (200, {"status": "alive"})

    await until(is_sound)


@pytest.mark.parametrize("part", ["_follow_states", "_follow_texts"])
async def test_a_part_of_the_watcher_that_breaks_once_costs_nobody_an_answer(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, api_redis: MeshRedis, words: str, part: str
) -> None:
    broken = 0

    async with running(create_app(settings_for(api_database_url, valkey))) as (url, server):
        watcher = server.lifespan.state["watcher"]
        inner = {"_follow_states": "_update", "_follow_texts": "_read_texts"}[part]
        works = getattr(watcher, inner)

        async def breaks_once(*arguments: object) -> None:
            nonlocal broken
            broken += 1
            if broken == 1:
                raise KeyError("a defect")
            await works(*arguments)

        setattr(watcher, inner, breaks_once)
        async with ClientSession(url) as client:
            question_id = await ask(client, words)
            writer = await Writer.begin(api_engine, api_redis, words)
            async with watching(client, question_id) as stream:
                await writer.write("It says so.")
                assert await stream.text(11) == "It says so."
                await writer.complete()
                assert [event.name for event in await stream.rest()] == ["completed"]
            assert broken >= 1
            async with client.get("/livez") as response:
                assert response.status == 200


async def test_a_mesh_that_gets_another_id_goes_on_under_it(
    databases: Databases, valkey: Valkey, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where `askmesh restored` runs after a failover, under services that live on."""
    monkeypatch.setattr("api_service.core.sampling._FOLLOW_SECONDS", 0.1)
    new_id = str(uuid.uuid4())
    with databases.create() as url:
        engine = create_engine(DatabaseSettings(database_url=SecretStr(url)), "tests")
        async with (
            serving(settings_for(url, valkey)) as api,
            ClientSession(api) as client,
            redis_at(valkey.url(), mesh_id=new_id) as redis,
        ):
            question_id = await ask(client, words)
            async with watching(client, question_id) as stream:
                await asyncio.to_thread(execute, url, f"UPDATE mesh SET id = '{new_id}'")

                async def listens() -> bool:
                    return bool(await redis.pubsub_channels(redis.name("text", "*")))

                await until(listens)
                writer = await Writer.begin(engine, redis, words)
                await writer.write("It says so.")
                assert await stream.text(11) == "It says so."
                await writer.complete()
                assert (await stream.rest())[-1].name == "completed"
        await engine.dispose()


async def test_a_password_that_postgresql_refuses_stops_neither_the_start_nor_the_process(
    api_database_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(_engine: AsyncEngine) -> str:
        raise InvalidPasswordError("password authentication failed")

    monkeypatch.setattr("api_service.core.sampling._SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr("api_service.core.sampling.read_mesh_id", refuses)
    async with serving(settings_for(api_database_url, valkey)) as api, ClientSession(api) as client:

        async def is_degraded() -> bool:
            async with client.get("/readyz") as response:
                return "redis" in (await response.json())["degraded"]

        await until(is_degraded)
        await ask(client, "Without Redis?")
        monkeypatch.undo()

        async def is_well() -> bool:
            return not await is_degraded()

        await until(is_well)
        async with client.get("/livez") as response:
            assert response.status == 200
