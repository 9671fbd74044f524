"""``askmesh restored``: what a restored database needs before services use it."""

from typing import Final

import click
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis_client import create_redis
from foundation.settings import RedisSettings
from operations.running import is_given, settings

SKIPPED: Final = 1_000_000_000
"""More numbers than any mesh gives out between a backup and a failure. They end at 2^53, 9 million restores away."""


async def skip_numbers(engine: AsyncEngine) -> int:
    """Let every sequence go on far beyond what the backup knows; returns how many there are.

    What was given out after the backup is held by clients and by Redis: a new question under such an id would be shown
    the answer of the lost one.
    """
    async with engine.begin() as connection:
        skipped = await connection.execute(
            text(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, coalesce(last_value, 1) + :skipped)"
                " FROM pg_sequences WHERE schemaname = current_schema()"
            ),
            {"skipped": SKIPPED},
        )
        return len(skipped.all())


async def empty_redis() -> bool:
    """Forget what Redis holds of answers that the backup does not; False where no Redis is set.

    Raises click's error if it does not answer, or its URL is none.
    """
    if not is_given("REDIS_URL"):
        return False
    redis = create_redis(settings(RedisSettings))
    try:
        await redis.flushdb()
    except RedisError as error:
        raise click.ClickException(f"Redis, at ASKMESH_REDIS_URL: {type(error).__name__}") from None
    finally:
        await redis.aclose()
    return True
