"""A client of Redis whose server does not serve, on real servers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from embedded.valkey import Valkey
from foundation.reachability import Reachability, explain
from foundation.redis import MeshRedis, RedisState, UnknownMeshError
from tests.servers import redis_at
from tests.valkeys import REFUSALS, two_servers


async def probed(redis: MeshRedis) -> bool:
    try:
        await redis.probe()
    except (RedisError, OSError) as error:
        redis.mesh.note(error)
        return False
    redis.mesh.outage.succeeded()
    return True


async def open_connections(redis: MeshRedis, count: int) -> None:
    """Have so many connections open and idle."""
    assert await asyncio.gather(*(redis.blpop("nothing", 0.3) for _ in range(count))) == [None] * count


@pytest.mark.valkey
@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS)
async def test_connections_to_a_server_that_does_not_serve_are_given_up(
    tmp_path: Path, refuse: Callable[[Valkey], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    with two_servers(tmp_path) as (one, other, name):
        redis = redis_at(name.url)
        await open_connections(redis, 10)
        assert await probed(redis)
        await refuse(one)
        assert not await probed(redis)
        assert not await probed(redis)
        name.lead_to(other)
        began = time.monotonic()
        refused = 0
        while not await probed(redis):
            refused += 1
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 10
        # None of the other connections leads to the first server any more.
        assert all(await asyncio.gather(*(probed(redis) for _ in range(20))))
        async with asyncio.timeout(30):
            while redis.mesh.outage.logged_as_lost:
                assert await probed(redis)
                await asyncio.sleep(0.1)
        await redis.aclose()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2, lines
    assert lines[0].startswith("Redis does not answer (")
    assert lines[1] == "Redis answers again"


async def test_a_connection_does_not_outlive_a_minute(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server from which the name was moved away may go on serving, and then nothing tells."""
    async with redis_at(valkey.url()) as redis:
        first = await redis.client_id()
        assert await redis.client_id() == first
        monkeypatch.setattr("foundation.redis._LONGEST_SECONDS", 0.0)
        second = await redis.client_id()
        assert second != first
        assert await redis.client_id() != second


@pytest.mark.valkey
async def test_a_full_server_is_not_asked_for_connections_with_each_call(tmp_path: Path) -> None:
    with two_servers(tmp_path) as (one, _, name):
        redis = redis_at(name.url)
        await REFUSALS["a full server"](one)
        before = (await redis.info("stats"))["total_connections_received"]
        began = time.monotonic()
        for _ in range(300):
            assert not await probed(redis)
        seconds = time.monotonic() - began
        received = (await redis.info("stats"))["total_connections_received"] - before
        assert received <= seconds + 3
        await redis.aclose()


async def test_names_bear_the_mesh_and_there_are_none_before_it_is_known(valkey: Valkey) -> None:
    redis = redis_at(valkey.url(), mesh_id=None)
    began = time.monotonic()
    with pytest.raises(UnknownMeshError):
        await redis.probe()
    assert time.monotonic() - began < 1
    redis.mesh.id = "m"
    assert redis.name("answer", 7, "text") == "askmesh:m:answer:7:text"
    await redis.probe()
    await redis.aclose()


async def test_that_the_mesh_is_not_known_yet_is_no_outage_of_redis(caplog: pytest.LogCaptureFixture) -> None:
    mesh = RedisState("tests")
    mesh.note(UnknownMeshError())
    assert mesh.outage.reachable
    assert caplog.records == []


async def test_where_some_calls_fail_and_others_do_not_the_log_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    reachability = Reachability.of("Redis", "tests", settled_seconds=3)
    for _ in range(100):
        reachability.failed(OSError())
        reachability.succeeded()
    assert reachability.reachable
    assert [record.getMessage() for record in caplog.records] == ["Redis does not answer (OSError): tests"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("READONLY You can't write against a read only replica.", "ReadOnlyError: it is a read-only replica"),
        ("LOADING Valkey is loading the dataset in memory", "BusyLoadingError: it is loading its data"),
        ("OOM command not allowed", "OutOfMemoryError: its memory is full: see maxmemory"),
        ("MASTERDOWN Link with MASTER is down", "MasterDownError: it is a replica that has lost its primary"),
        ("MISCONF Valkey is configured to save", "ResponseError MISCONF"),
        ("ERR unknown command 'x', with args beginning with: 'a secret'", "ResponseError"),
    ],
)
async def test_the_log_says_what_an_error_means_and_nothing_that_it_quotes(code: str, expected: str) -> None:
    from redis._parsers.base import BaseParser  # noqa: PLC0415 - as redis-py makes its errors

    assert explain(BaseParser.parse_error(code)) == expected  # type: ignore[no-untyped-call]


@pytest.mark.loopback
@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"ERROR\r\n",  # memcached
        b"N",  # PostgreSQL
        b"AMQP\0\0\x09\x01",
        b"+OK\r\n",
        b"+OK\r\n" * 20,
        b"$-1\r\n" * 20,
        b":1\r\n" * 20,
        b"*0\r\n" * 20,
        b"%0\r\n" * 20,
        b"-ERR unknown command\r\n" * 20,
        b"-DENIED Redis is running in protected mode\r\n",
        b"-ERR max number of clients reached\r\n",
        b"$5\r\nhel",
        b"\xff" * 100,
    ],
)
async def test_a_server_that_is_no_redis_is_an_absent_redis(says: bytes) -> None:
    """Whatever it says, callers get one of the errors that they know, and soon."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(says)
        await writer.drain()
        if not says:
            writer.close()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    began = time.monotonic()
    async with redis_at(f"redis://{host}:{port}/1") as redis:
        for call in (redis.probe(), redis.blpop("x", 0.1), redis.evalsha("x", 0), redis.get("x")):
            with contextlib.suppress(RedisError, OSError):
                await call
        async with redis.pubsub() as pubsub:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.subscribe("x")
                await pubsub.get_message(timeout=0.5)
    assert time.monotonic() - began < 30
    server.close()
