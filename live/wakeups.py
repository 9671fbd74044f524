"""Waking a worker through Redis: by a hint through the broker it wakes 2 ms later, at five times the CPU time.

A wake-up says that there is work, never which. One worker takes it. A lost one costs time only: the hint follows.
"""

import asyncio
from typing import Final

from redis.exceptions import RedisError, ResponseError

from foundation.redis import MeshRedis

_KEY: Final = "wakeups"
_KIND: Final = "a wake-up"
# Where more wait, there is no worker, or none that has a free slot.
_MOST_KEPT: Final = 100
# One for more slots than a worker may have free would leave other workers asleep.
_SLOTS_A_WAKEUP: Final = 16
# One speaks for all that was asked within this time, so that a flood makes 200 a second.
_PAUSE_SECONDS: Final = 0.005
_RETRY_SECONDS: Final = 1.0

WAIT_SECONDS: Final = 5.0
"""How long ``next_wakeup`` waits: the client must wait longer than that for a reply."""


class Wakeups:
    """Wakes workers, from one task."""

    def __init__(self, redis: MeshRedis) -> None:
        self._redis = redis
        self._pending = 0
        self._wanted = asyncio.Event()
        self.reachable = False
        """Whether Redis took the latest."""

    def wake(self) -> None:
        """Ask that one more worker slot look for work. Returns at once."""
        self._pending += 1
        self._wanted.set()

    async def run(self) -> None:
        """Send wake-ups for ever. What Redis does not take is forgotten."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            count, self._pending = self._pending, 0
            pause = _PAUSE_SECONDS
            try:
                await self._send(self._redis.name(_KEY), count)
                self.reachable = True
            except (RedisError, OSError) as error:
                self.reachable = False
                pause = _RETRY_SECONDS
                self._redis.mesh.note(error)
            await asyncio.sleep(pause)

    async def _send(self, key: str, count: int) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.rpush(key, *_shares(count))
                pipeline.ltrim(key, -_MOST_KEPT, -1)
                await pipeline.execute()
        except ResponseError as error:
            if not await self._redis.drop_rubbish(key, _KIND, error):
                raise
            await self._send(key, count)


def _shares(count: int) -> list[int]:
    whole, rest = divmod(count, _SLOTS_A_WAKEUP)
    return [_SLOTS_A_WAKEUP] * whole + [rest] * bool(rest)


async def next_wakeup(redis: MeshRedis) -> int:
    """How many slots somebody wakes; 0 if nobody did in WAIT_SECONDS, or not so that it can be read.

    Raises RedisError or OSError.
    """
    key = redis.name(_KEY)
    try:
        taken = await redis.blpop(key, WAIT_SECONDS)
        return max(int(taken[1]), 0) if taken else 0
    except ResponseError as error:
        if not await redis.drop_rubbish(key, _KIND, error):
            raise
    except ValueError as error:
        redis.mesh.unreadable.skip(_KIND, error)
    return 0
