"""PostgreSQL, RabbitMQ and Valkey that die, restart, or forget."""

import asyncio
import random
from signal import SIGINT, SIGKILL, Signals

import asyncpg
from redis.asyncio import Redis

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.rabbitmq import RabbitMQ

_QUEUE = "askmesh.hints"
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%service%'"


class EndPostgreSQL(Fault):
    """The supervisor starts it again."""

    def __init__(self, number: Signals) -> None:
        """SIGINT: as an operator restarts it. SIGKILL: it recovers from its log."""
        self._number = number

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        before = stage.pids("postgresql")["postgresql"]
        stage.send(self._number, before)
        await stage.until(lambda: stage.pids("postgresql").get("postgresql", before) != before, "PostgreSQL is back")
        async with asyncio.timeout(60):
            while True:
                try:
                    await stage.fetch("SELECT 1")
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.1)
                else:
                    return


class ExhaustConnections(Fault):
    """Somebody else takes all of PostgreSQL's connections, those of the services too, and keeps them for seconds."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        seconds = rng.uniform(3, 6)
        first = await asyncpg.connect(stage.database_url)
        taken = [first]
        refusals = 0
        try:
            until = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < until:
                try:
                    taken.append(await asyncpg.connect(stage.database_url))
                except asyncpg.TooManyConnectionsError:
                    refusals += 1
                    await first.execute(_TERMINATE)
                    await asyncio.sleep(0.05)
        finally:
            for connection in taken:
                await connection.close()
        assert refusals, "the connections were never exhausted"


class RestartRabbitMQ(Fault):
    """In good order or by kill -9; hints that were not taken survive in the queue."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(rng.choice([RabbitMQ.stop, RabbitMQ.kill]), stage.rabbitmq)
        await asyncio.sleep(rng.uniform(0, 3))
        await asyncio.to_thread(stage.rabbitmq.start)


class PurgeQueue(Fault):
    """All hints are lost that no worker was given yet."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(stage.rabbitmq.purge, _QUEUE)


class CloseBrokerConnections(Fault):
    """RabbitMQ closes the connections of all services."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(stage.rabbitmq.close_connections)


class FlushValkey(Fault):
    """Cache, signals, and hints where it is the broker: all gone."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        async with Redis.from_url(stage.valkey_url) as valkey:
            await valkey.flushall()


class KillValkey(Fault):
    """kill -9; the supervisor starts it again, empty."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        before = stage.pids("valkey")["valkey"]
        stage.send(SIGKILL, before)
        await stage.until(lambda: stage.pids("valkey").get("valkey", before) != before, "Valkey is back")


RESTART, KILL = SIGINT, SIGKILL
"""What an operator, and what an accident, sends to PostgreSQL."""
