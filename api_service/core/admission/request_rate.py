"""Requests a minute: a bucket that refills evenly, one for all replicas while Redis answers."""

import hashlib
import time
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from foundation.redis import MeshRedis

_WINDOW: Final = 60.0
_MOST_LOCAL_BUCKETS: Final = 10_000
# The bucket is the time at which it will be full (GCRA), in microseconds of Redis's clock, which all replicas share.
# What is no time counts as a full bucket; a time far ahead, as after a failover to a clock that is behind, as an empty
# one. ARGV: limit, cost. A cost of -1 gives one back. Returns: allowed, microseconds until full.
_TAKE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, cost = 60000000 / tonumber(ARGV[1]), tonumber(ARGV[2])
local held = redis.pcall('GET', KEYS[1])
local full = type(held) == 'string' and string.find(held, '^%d+$') and tonumber(held) or 0
full = math.min(math.max(full, now), now + 60000000)
local after = math.max(full + interval * cost, now)
if cost > 0 and after - now > 60000001 then return {0, full - now} end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
return {1, after - now}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """``remaining`` requests could follow at once. ``reset``: seconds until the bucket is full.

    ``retry_after``: seconds until there is one again; 0 where there is.
    """

    allowed: bool
    remaining: int
    reset: float
    retry_after: float

    @classmethod
    def of(cls, *, allowed: bool, reset: float, limit: int) -> "Taken":
        """From what a bucket says of itself."""
        interval = _WINDOW / limit
        # What a double loses must not cost a whole request.
        remaining = int((_WINDOW - reset) / interval + 1e-6)
        return cls(allowed, max(remaining, 0), reset, max(reset + interval - _WINDOW, 0.0))


class RequestRate:
    """Takes requests out of buckets. While Redis is away each process has buckets of its own."""

    def __init__(self, redis: MeshRedis) -> None:
        self._redis = redis
        self._take = redis.register_script(_TAKE)
        self._local: dict[str, float] = {}

    async def take(self, bucket: str, limit: int, cost: int = 1) -> Taken:
        """Take ``cost`` requests, or give one back: -1. ``limit``: of a minute, and of what may come at once."""
        try:
            key = self._redis.name("requests", hashlib.sha256(bucket.encode()).hexdigest()[:32])
            allowed, microseconds = await self._take(keys=[key], args=[limit, cost])
        except (RedisError, OSError) as error:
            self._redis.mesh.note(error)
            return self._take_here(bucket, limit, cost)
        self._redis.mesh.outage.succeeded()
        self._local.clear()
        return Taken.of(allowed=bool(allowed), reset=microseconds / 1e6, limit=limit)

    def _take_here(self, bucket: str, limit: int, cost: int) -> Taken:
        now = time.monotonic()
        full = max(self._local.get(bucket, 0.0), now)
        after = max(full + _WINDOW / limit * cost, now)
        if cost > 0 and after - now > _WINDOW + 1e-6:
            return Taken.of(allowed=False, reset=full - now, limit=limit)
        if len(self._local) >= _MOST_LOCAL_BUCKETS:
            self._local = {name: until for name, until in self._local.items() if until > now}
        self._local[bucket] = after
        return Taken.of(allowed=True, reset=after - now, limit=limit)
