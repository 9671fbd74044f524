"""Long polls."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio
from aiohttp import ClientSession, TCPConnector
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from api_service.core.watcher import Watcher
from api_service.http.server import ApiServer
from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from tests.api_service import worker_actions
from tests.api_service.serving import running, settings_for
from tests.api_service.sse import ask
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAITERS = 500
POOL = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_api(
    api_database_url: str, valkey: Valkey, api_redis: MeshRedis
) -> AsyncIterator[tuple[str, ApiServer]]:
    """An API with two connections to PostgreSQL."""
    settings = settings_for(api_database_url, valkey)
    settings = replace(settings, database=settings.database.model_copy(update={"database_pool_size": POOL}))
    async with running(create_app(settings)) as api:
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_streams(running_api: tuple[str, ApiServer]) -> AsyncIterator[ClientSession]:
    """A client of it without limits."""
    async with ClientSession(running_api[0], connector=TCPConnector(limit=0)) as client:
        yield client


@pytest.fixture
def watched(running_api: tuple[str, ApiServer]) -> Callable[[], int]:
    """How many wait for an answer now."""
    watcher: Watcher = running_api[1].lifespan.state["watcher"]
    return lambda: sum(len(question.watches) for question in watcher._questions.values())


async def wait(api: ClientSession, question_id: int, seconds: str = "60") -> str:
    async with api.get(f"/api/answer/{question_id}", params={"wait": seconds}) as response:
        assert response.status == 200, await response.text()
        assert ("Retry-After" in response.headers) == ((await response.json())["status"] in ("queued", "in_progress"))
        status: str = (await response.json())["status"]
        return status


async def test_who_waits_hears_of_the_end_at_once(
    running_streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(running_streams, words)
    waiting = asyncio.create_task(wait(running_streams, question_id))
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("It says so.")
    assert not waiting.done()
    await writer.complete()
    assert await waiting == "completed"
    assert await wait(running_streams, question_id) == "completed"


@pytest.mark.parametrize("seconds", ["0", "0.05", "1"])
async def test_after_that_time_the_state_is_told_as_it_is(
    running_streams: ClientSession, words: str, seconds: str
) -> None:
    question_id = await ask(running_streams, words)
    began = time.monotonic()
    assert await wait(running_streams, question_id, seconds) == "queued"
    assert time.monotonic() - began >= float(seconds)


@pytest.mark.parametrize("seconds", ["-1", "61", "60.001", "x", "", "1e1", "+1", " 1", "NaN", "inf", "1,5", "1&wait=2"])
async def test_a_wait_that_cannot_be_is_refused(running_streams: ClientSession, words: str, seconds: str) -> None:
    question_id = await ask(running_streams, words)
    async with running_streams.get(f"/api/answer/{question_id}?wait={seconds}") as response:
        problem = await response.json()
    assert (response.status, problem["code"]) == (400, "invalid_parameter")
    (error,) = problem["errors"]
    assert (error["field"], error["detail"]) == ("wait", "is not a number of seconds from 0 to 60")


async def test_a_cancel_elsewhere_and_an_end_that_nobody_told_of_are_noticed(
    running_streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    first, second = await ask(running_streams, words), await ask(running_streams, words + "?")
    waiting = [asyncio.create_task(wait(running_streams, question_id)) for question_id in (first, second)]
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.complete(tell=False)
    async with api_engine.begin() as connection:
        cancel = "UPDATE questions SET ended = 'cancelled', ended_at = clock_timestamp() WHERE id = :id"
        await connection.execute(text(cancel), {"id": second})
    assert await asyncio.gather(*waiting) == ["completed", "cancelled"]


async def test_many_wait_at_once_on_few_connections(
    running_streams: ClientSession, api_engine: AsyncEngine, watched: Callable[[], int], words: str
) -> None:
    ids = [await ask(running_streams, f"{words} {number}") for number in range(10)]
    waiting = [asyncio.create_task(wait(running_streams, ids[number % 10])) for number in range(WAITERS)]

    async def connections() -> int:
        async with api_engine.connect() as connection:
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'api_service'"
            found: int = (await connection.execute(text(count + " AND datname = current_database()"))).scalar_one()
            return found

    async with asyncio.timeout(30):
        while watched() < WAITERS:
            await asyncio.sleep(0.01)
    assert await wait(running_streams, ids[0], "0") == "queued"  # while they wait, others are served
    assert await connections() <= POOL
    for number in range(10):
        await worker_actions.complete(api_engine, f"{words} {number}", "It says so.")
    async with asyncio.timeout(60):
        assert set(await asyncio.gather(*waiting)) == {"completed"}
    assert await connections() <= POOL
    async with asyncio.timeout(30):
        while watched():
            await asyncio.sleep(0.01)


async def test_an_end_that_was_told_before_anybody_waited_is_not_missed(
    api_database_url: str,
    valkey: Valkey,
    api_engine: AsyncEngine,
    api_redis: MeshRedis,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What this process knows of a question that was just asked is a moment old."""
    monkeypatch.setattr("api_service.core.watcher._LOOK_SECONDS", 3_600)
    async with running(create_app(settings_for(api_database_url, valkey))) as (url, server), ClientSession(url) as api:
        watcher: Watcher = server.lifespan.state["watcher"]
        async with asyncio.timeout(20):
            while not watcher._listens:
                await asyncio.sleep(0.01)
            question_id = await ask(api, words)
            writer = await Writer.begin(api_engine, api_redis, words)
            await writer.complete()
            while writer.answer_id not in watcher._ended:
                await asyncio.sleep(0.001)
            assert await wait(api, question_id) == "completed"
