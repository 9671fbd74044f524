"""Wake-ups through a real Redis that comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.wakeups import WAIT_SECONDS, Wakeups, next_wakeup
from tests.servers import redis_at


@asynccontextmanager
async def waking(valkey: Valkey) -> AsyncIterator[tuple[MeshRedis, Wakeups]]:
    """A client that may wait for wake-ups, and who sends them."""
    redis = redis_at(valkey.url(), blocks=WAIT_SECONDS)
    wakeups = Wakeups(redis)
    sending = asyncio.create_task(wakeups.run())
    try:
        yield redis, wakeups
    finally:
        while not sending.done():
            sending.cancel()
            await asyncio.wait({sending}, timeout=0.1)
        await redis.aclose()


async def until(wakeups: Wakeups, *, reachable: bool) -> None:
    while wakeups.reachable is not reachable:
        await asyncio.sleep(0.01)


async def test_one_who_waits_is_woken_and_the_other_is_not(valkey: Valkey) -> None:
    async with waking(valkey) as (redis, wakeups):
        await redis.flushdb()
        waiting = {asyncio.create_task(next_wakeup(redis)) for _ in range(2)}
        wakeups.wake()
        woken, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in woken] == [1]
        assert await asyncio.gather(*waiting) == [0]  # after all the time that it waits


async def test_one_speaks_for_all_that_was_asked_in_the_meantime(valkey: Valkey) -> None:
    async with waking(valkey) as (redis, wakeups):
        await redis.flushdb()
        assert not wakeups.reachable
        for _ in range(7):
            wakeups.wake()
        assert await next_wakeup(redis) == 7


async def test_many_are_shared_among_workers(valkey: Valkey) -> None:
    async with waking(valkey) as (redis, wakeups):
        await redis.flushdb()
        for _ in range(40):
            wakeups.wake()
        assert [await next_wakeup(redis) for _ in range(3)] == [16, 16, 8]


async def test_what_nobody_takes_does_not_grow(valkey: Valkey) -> None:
    async with waking(valkey) as (redis, wakeups):
        await redis.flushdb()
        await redis.rpush(redis.name("wakeups"), *[1] * 150)
        wakeups.wake()
        async with asyncio.timeout(20):
            while await redis.llen(redis.name("wakeups")) != 100:
                await asyncio.sleep(0.01)


@pytest.mark.valkey
async def test_a_server_that_was_lost_is_used_again(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    with valkey:
        async with waking(valkey) as (redis, wakeups), asyncio.timeout(30):
            waiting = asyncio.create_task(next_wakeup(redis))
            while not await redis.client_list(_type="normal"):
                await asyncio.sleep(0.01)
            wakeups.wake()
            assert await waiting == 1
            await until(wakeups, reachable=True)
            waiting = asyncio.create_task(next_wakeup(redis))
            valkey.kill()
            with pytest.raises((RedisError, OSError)):
                await waiting
            wakeups.wake()  # lost
            await until(wakeups, reachable=False)
            valkey.start()
            waiting = asyncio.create_task(next_wakeup(redis))
            while not waiting.done():
                wakeups.wake()
                await asyncio.wait({waiting}, timeout=0.1)
            assert waiting.result() >= 1
