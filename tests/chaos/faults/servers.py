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


class DemoteValkey(Fault):
    """It becomes a replica of one that does not answer, so that it takes no writes, and is promoted again."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        async with Redis.from_url(stage.valkey_url) as valkey:
            await valkey.replicaof("127.0.0.1", 1)
            try:
                await asyncio.sleep(rng.uniform(2, 5))
            finally:
                await valkey.replicaof("NO", "ONE")


class SendRubbish(Fault):
    """What nobody can read, on every channel to which the mesh listens and in the list of its wake-ups."""

    _RUBBISH = (
        b"",
        b"hello",
        b"-1",
        b"1,",
        b"99999999999999999999",
        b"1:2:3:4",
        b"0:x:text",
        b"\xff\x00",
        b"{}",
        b"1\n2",
    )

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        async with Redis.from_url(stage.valkey_url) as valkey:
            channels: list[bytes] = await valkey.execute_command("PUBSUB CHANNELS", "askmesh*")  # type: ignore[no-untyped-call]
            assert channels, "nobody listens"
            for channel in channels:
                for rubbish in self._RUBBISH:
                    await valkey.publish(channel, rubbish)
            ended = next(channel for channel in channels if channel.endswith(b":ended"))
            await valkey.rpush(ended.removesuffix(b"ended") + b"wakeups", *self._RUBBISH)


class DemotePostgreSQL(Fault):
    """Sessions that are there become read-only, as on a server that was fenced; new ones lead to one that writes."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await stage.fetch("ALTER ROLE CURRENT_USER SET default_transaction_read_only = off")
        await stage.fetch("ALTER SYSTEM SET default_transaction_read_only = on")
        await stage.fetch("SELECT pg_reload_conf()")
        self._database_url = stage.database_url

    async def release(self) -> None:
        connection = await asyncpg.connect(self._database_url)
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("ALTER ROLE CURRENT_USER RESET default_transaction_read_only")
        await connection.close()


RESTART, KILL = SIGINT, SIGKILL
"""What an operator, and what an accident, sends to PostgreSQL."""
