"""Valkey from its wheel, as the tests of the services run it."""

from pathlib import Path

import psutil
import pytest
from celery import Celery
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from embedded.valkey import Valkey

pytestmark = pytest.mark.valkey


async def test_both_kinds_of_client_reach_it_and_no_network_does(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        async with AsyncRedis.from_url(server.url()) as client:
            await client.set("name", "value")
            assert await client.get("name") == b"value"
        with Celery(broker=server.broker_url).connection_for_write() as broker:
            broker.ensure_connection(max_retries=0)
            broker.SimpleQueue("queue").put("hint")
        with Redis.from_url(server.url(database=1)) as broker_database:
            assert broker_database.llen("queue") == 1
        assert psutil.Process(server.pid).net_connections("inet") == []


def test_what_has_no_age_is_never_evicted(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server, Redis.from_url(server.url()) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
        assert client.config_get("maxmemory") == {"maxmemory": str(256 << 20)}


def test_only_its_owner_can_reach_it(tmp_path: Path) -> None:
    with Valkey(tmp_path) as server:
        assert server._socket.parent.stat().st_mode & 0o077 == 0
        assert server._socket.stat().st_mode & 0o077 == 0
    assert not server._socket.parent.exists()
