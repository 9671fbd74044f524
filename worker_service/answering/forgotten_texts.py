"""Ends texts in Redis that nobody closed, because a process was killed or Redis was away when their answers ended."""

import asyncio
import random
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from live.answer_stream import close_texts, drop_texts, running_texts

_ROUND_SECONDS: Final = 600.0
# The rest is still being written or waits for a claim.
_FIND_ENDED = text("""
    SELECT asked.id, answers.id IS NULL AS gone FROM unnest(CAST(:ids AS bigint[])) AS asked(id)
    LEFT JOIN answers ON answers.id = asked.id
    WHERE answers.id IS NULL OR answers.finished_at IS NOT NULL
""")


async def end_forgotten_texts(database: Database, redis: MeshRedis) -> None:
    """Look every ten minutes, for ever; one worker of a fleet does, and two at once do no harm."""
    while True:
        # The first round waits, too: a worker that is restarted often does not look each time.
        await asyncio.sleep(_ROUND_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        try:
            if await redis.set(redis.name("forgotten"), b"", nx=True, ex=int(_ROUND_SECONDS / 2)):
                with database.attempt():
                    await end_once(database.engine, redis)
        except RedisError as error:
            redis.mesh.note(error)


async def end_once(engine: AsyncEngine, redis: MeshRedis) -> None:
    """One round: close the texts of answers that are final, and drop those of answers that are no more."""
    async for ids in running_texts(redis):
        async with engine.connect() as connection:
            ended = (await connection.execute(_FIND_ENDED, {"ids": ids})).all()
        await close_texts(redis, [row.id for row in ended if not row.gone])
        if gone := [row.id for row in ended if row.gone]:
            await drop_texts(redis, gone)
