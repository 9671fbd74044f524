"""Waking a worker through Redis: by a hint through the broker it wakes 2 ms later, at five times the CPU time.

A wake-up says that there is work, never which. One worker takes it. A lost one costs time only: the hint follows.
"""

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

_KEY: Final = "askmesh:wakeups"
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

    def __init__(self, redis: Redis) -> None:
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
                async with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.rpush(_KEY, *_shares(count))
                    pipeline.ltrim(_KEY, -_MOST_KEPT, -1)
                    await pipeline.execute()
                self.reachable = True
            except (RedisError, OSError):
                self.reachable = False
                pause = _RETRY_SECONDS
            await asyncio.sleep(pause)


def _shares(count: int) -> list[int]:
    whole, rest = divmod(count, _SLOTS_A_WAKEUP)
    return [_SLOTS_A_WAKEUP] * whole + [rest] * bool(rest)


async def next_wakeup(redis: Redis) -> int:
    """How many slots somebody wakes; 0 if nobody did in WAIT_SECONDS. Raises RedisError or OSError."""
    taken = await redis.blpop(_KEY, WAIT_SECONDS)
    return int(taken[1]) if taken else 0
