"""The connection to Redis or Valkey: one pool a process, with short time-outs, because Redis only speeds up."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from foundation.settings import RedisSettings


def create_redis(settings: RedisSettings) -> Redis:
    """A client whose calls fail within a second where Redis does not answer."""
    client: Redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return client
