"""A Redis that is demoted, filled or locked under a running worker, and a name that then leads to another server."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from live.answer_stream import ReadPosition, read_texts
from live.signals import ENDED_CHANNEL
from tests.servers import redis_at
from tests.valkeys import REFUSALS, two_servers
from tests.worker_service.asking import answers, ask
from tests.worker_service.conftest import StartWorker
from tests.worker_service.waiting import eventually


@pytest.mark.parametrize("kind", ["a demoted server", "a full server"])
async def test_a_worker_goes_on_and_uses_the_server_to_which_the_name_leads_now(
    engine: AsyncEngine, start_worker: StartWorker, tmp_path: Path, kind: str
) -> None:
    async def answer(question: str) -> int:
        await ask(engine, question)

        async def is_answered() -> bool:
            return bool((await answers(engine))[question].state == "completed")

        await eventually(is_answered, f"{question} is answered", seconds=60)
        answer_id: int = (await answers(engine))[question].id
        return answer_id

    with two_servers(tmp_path) as (one, other, name):
        worker = start_worker(ASKMESH_REDIS_URL=name.url)
        await worker.ready()
        await answer("before")
        await REFUSALS[kind](one)
        await answer("meanwhile")
        await eventually(lambda: "Redis does not answer" in worker.log_text(), "the outage is noticed", seconds=60)
        name.lead_to(other)
        async with redis_at(other.url()) as redis:

            async def listens_there() -> bool:
                return bool(await redis.pubsub_channels(redis.name(ENDED_CHANNEL)))

            async def wakes_there() -> bool:
                return not await redis.llen(redis.name("wakeups"))

            await redis.rpush(redis.name("wakeups"), 1)
            await eventually(listens_there, "the worker listens there", seconds=60)
            await eventually(wakes_there, "the worker takes wake-ups there", seconds=60)
            await eventually(lambda: "Redis answers again" in worker.log_text(), "the outage is over", seconds=60)
            answer_id = await answer("afterwards")

            async def has_its_text() -> bool:
                (reading,) = await read_texts(redis, [ReadPosition(answer_id, 0, 0)])
                return reading is not None and reading.finished

            await eventually(has_its_text, "its text is there")
        log = worker.log_text()
    assert (log.count("Redis does not answer"), log.count("Redis answers again")) == (1, 1), log
    assert " broke: " not in log
