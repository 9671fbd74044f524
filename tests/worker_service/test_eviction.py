"""A Valkey that is too small for what it is given: finished answers go, the text of running ones does not."""

from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.answer_cache import forget
from live.answer_stream import (
    ReadPosition,
    RunningUsage,
    TextAppend,
    TextSnapshot,
    append,
    close_texts,
    put_texts,
    read_texts,
)
from live.answer_stream import running_texts as find_running
from live.text_scripts import ENDED_SECONDS
from tests.servers import redis_at
from tests.worker_service.asking import ask
from worker_service.answering.forgotten_texts import end_once

pytestmark = pytest.mark.valkey

SPARE_BYTES = 4_000_000
COPY = b"x" * 2_000


async def limit(redis: MeshRedis) -> None:
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + SPARE_BYTES)


async def copies(redis: MeshRedis, first: int, count: int) -> None:
    """Finished answers, as readers have them copied, three times as many as there is room for."""
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(first, first + count):
            pipeline.set(redis.name("question", 2, number), COPY, ex=3_600, nx=True)
        await pipeline.execute()


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-lfu", "volatile-ttl", "volatile-random"])
async def test_text_that_is_being_written_is_not_evicted(tmp_path: Path, policy: str) -> None:
    with Valkey(tmp_path) as valkey:
        async with redis_at(valkey.url()) as redis:
            assert (await redis.config_get("maxmemory-policy"))["maxmemory-policy"] == "volatile-lru"
            await redis.config_set("maxmemory-policy", policy)
            await limit(redis)
            whole = b"word " * 2_000
            running = range(1, 51)
            await put_texts(redis, [TextSnapshot(number, 1, 0, whole, RunningUsage()) for number in running])
            await put_texts(redis, [TextSnapshot(number, 1, 0, whole, RunningUsage()) for number in range(51, 101)])
            await close_texts(redis, range(51, 101))
            for start in range(0, 6_000, 500):
                await copies(redis, start, 500)
                # Half of them are stuck: nobody touches them for all that time.
                growing = [
                    TextAppend(number, 1, len(whole) + start // 500, b"x", RunningUsage()) for number in range(1, 26)
                ]
                assert await append(redis, growing) == [0] * 25
            assert (await redis.info("stats"))["evicted_keys"] > 2_000
            readings = await read_texts(redis, [ReadPosition(number, 0, 0) for number in running])
            lengths = [reading and reading.length for reading in readings]
            assert lengths == [len(whole) + 12] * 25 + [len(whole)] * 25


async def fill(redis: MeshRedis) -> int:
    """Store running texts until one is refused; how many there are."""
    stored = 0
    with suppress(OutOfMemoryError):
        while True:
            await put_texts(redis, [TextSnapshot(stored + 1, 1, 0, b"x" * 100_000, RunningUsage())])
            stored += 1
    return stored


async def test_where_only_running_text_is_left_more_of_it_is_refused_and_none_is_lost(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        async with redis_at(valkey.url()) as redis:
            await limit(redis)
            stored = await fill(redis)
            assert stored > 10
            readings = await read_texts(redis, [ReadPosition(number, 0, 0) for number in range(1, stored + 1)])
            assert all(reading and reading.length == 100_000 for reading in readings)
            await close_texts(redis, [1])  # needs no memory, and what has ended may go
            assert await put_texts(redis, [TextSnapshot(stored + 1, 1, 0, b"x" * 50_000, RunningUsage())]) == [0]


async def test_what_is_no_running_text_has_an_age(redis: MeshRedis) -> None:
    await put_texts(redis, [TextSnapshot(1, 1, 0, b"x", RunningUsage())])
    await close_texts(redis, [1])
    await forget(redis, 1)
    await redis.probe()
    ages = [await redis.ttl(key) for key in await redis.keys("*")]
    assert len(ages) == 4
    assert all(0 < age <= ENDED_SECONDS for age in ages)


async def test_a_text_that_nobody_closed_is_found_and_ended(engine: AsyncEngine, redis: MeshRedis) -> None:
    """As where Redis was away when the answer ended, or a process was killed just then."""
    for number in range(3):
        await ask(engine, f"question {number}")
    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT id FROM answers ORDER BY id"))
        final, queued, cancelled = rows.scalars().all()
        finished = text(
            "UPDATE answers SET state = 'cancelled', reusable = false, finished_at = now() WHERE id = ANY(:ids)"
        )
        await connection.execute(finished, {"ids": [final, cancelled]})
    gone = cancelled + 1_000
    await put_texts(
        redis, [TextSnapshot(number, 1, 0, b"text", RunningUsage()) for number in (final, queued, cancelled, gone)]
    )
    await redis.set(redis.name("answer", "rubbish"), "x")
    await redis.set(redis.name("answer", "9" * 30, "text"), "x")
    assert {number async for batch in find_running(redis) for number in batch} == {final, queued, cancelled, gone}
    await end_once(engine, redis)
    assert {number async for batch in find_running(redis) for number in batch} == {queued}
    readings = await read_texts(redis, [ReadPosition(number, 0, 0) for number in (final, queued, cancelled, gone)])
    assert [reading and reading.finished for reading in readings] == [True, False, True, None]
    await end_once(engine, redis)
