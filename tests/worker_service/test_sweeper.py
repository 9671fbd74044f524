"""What a worker's sweeper tells others of what it has found in PostgreSQL."""

from sqlalchemy import text

from foundation.postgresql.database import Database
from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from foundation.settings import WorkerSettings
from live.answer_stream import FINAL_CHANNEL
from questions import claims, suspects, worker_leases
from tests.worker_service.asking import answers, ask
from tests.worker_service.in_process import Worker
from worker_service.sweeping.sweeper import Sweeper


async def test_who_waits_for_an_answer_that_is_set_aside_as_poison_is_told(worker: Worker, redis: MeshRedis) -> None:
    await ask(worker.engine, "kills workers")
    dead = await worker_leases.register_worker(worker.engine, "dead", 60)
    (claim,) = await claims.claim(worker.engine, dead, 1)
    async with worker.engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET losses = :losses"), {"losses": suspects.POISON_FROM - 1})
    await worker_leases.retire_worker(worker.engine, dead)
    database = Database(worker.engine, Reachability.of("PostgreSQL", "tests"))
    sweeper = Sweeper(database, redis, worker.slots, WorkerSettings())

    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(redis.name(FINAL_CHANNEL))
        await pubsub.get_message(timeout=5)
        await sweeper.sweep_once()
        told = await pubsub.get_message(timeout=5)

    assert told is not None
    assert int(told["data"]) == claim.answer_id
    row = (await answers(worker.engine))["kills workers"]
    assert (row.state, row.error_reason) == ("failed", "poison")
