"""The connection to Redis or Valkey: one pool a process, with short time-outs, because Redis only speeds up."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from foundation.settings import RedisSettings


def create_redis(settings: RedisSettings, *, blocks: float = 0) -> Redis:
    """A client whose calls fail within two seconds where Redis does not answer.

    ``blocks``: seconds that a call may wait in Redis besides.

    It opens at most 50 connections; calls beyond that wait for one for at most a second.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=50,
        timeout=1,
        socket_timeout=1 + blocks,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)
