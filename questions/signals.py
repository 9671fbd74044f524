"""Telling workers through Redis that an answer is no longer wanted.

A lost signal costs time only: a worker's next heartbeat notices too.
"""

import logging
from collections.abc import AsyncIterator, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

_CHANNEL = "askmesh:ended"


async def publish_ended(redis: Redis, answer_ids: Iterable[int]) -> None:
    """Say that nobody waits for these answers any more."""
    try:
        for answer_id in answer_ids:
            await redis.publish(_CHANNEL, str(answer_id))
    except (RedisError, OSError):
        logger.warning("Redis did not take a signal: workers will notice at their next heartbeat")


async def ended_answers(redis: Redis) -> AsyncIterator[int]:
    """The ids published from now on. Raises RedisError or OSError when the connection is lost."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(_CHANNEL)
        while True:
            # None after the time-out, which also sees a connection that died without a word.
            message = await pubsub.get_message(timeout=5)
            if message is not None:
                yield int(message["data"])
