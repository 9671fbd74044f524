"""Wake-ups in a worker that has neither a sweeper nor a broker."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from live.wakeups import WAIT_SECONDS
from tests.servers import redis_at
from tests.worker_service.asking import ask, states
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.in_process import Worker
from tests.worker_service.waiting import eventually
from worker_service.waking.wakeups import take_wakeups


@pytest.fixture
async def taking(worker: Worker, valkey: Valkey, redis: MeshRedis) -> AsyncIterator[asyncio.Task[None]]:
    await redis.delete(redis.name("wakeups"))
    blocking = redis_at(valkey.url(), blocks=WAIT_SECONDS)
    task = asyncio.create_task(take_wakeups(blocking, worker.slots, Reachability.of("Redis", "tests")))
    yield task
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    await blocking.aclose()


@pytest.mark.usefixtures("taking")
async def test_a_wakeup_has_slots_look_for_work(engine: AsyncEngine, redis: MeshRedis) -> None:
    for number in range(3):
        await ask(engine, f"question {number}")
    await redis.rpush(redis.name("wakeups"), 3)

    async def answered() -> bool:
        return (await states(engine))["completed"] == 3

    await eventually(answered, "all three are answered")


async def test_none_is_taken_from_other_workers_without_a_free_slot(
    engine: AsyncEngine, redis: MeshRedis, worker: Worker, llm: FakeLlmService, taking: asyncio.Task[None]
) -> None:
    llm.flowing.clear()
    for number in range(9):
        await ask(engine, f"question {number}")
    await redis.rpush(redis.name("wakeups"), 8)
    await eventually(lambda: llm.running == 8, "all slots are busy")

    await redis.rpush(redis.name("wakeups"), 1)
    # What this process was waiting for before its slots were busy it still takes; what comes then it leaves.
    await redis.rpush(redis.name("wakeups"), 1)
    assert worker.slots.free == 0
    assert await redis.llen(redis.name("wakeups")) >= 1

    llm.flowing.set()

    async def taken() -> bool:
        return await redis.llen(redis.name("wakeups")) == 0 and (await states(engine))["completed"] == 9

    await eventually(taken, "the rest is taken once slots are free")
    await worker.slots.close(10, asyncio.Event())
    await asyncio.wait_for(taking, WAIT_SECONDS + 10)
