"""A Redis that is demoted, filled or locked under a running API, and a name that then leads to another server."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.settings import RedisSettings
from tests.api_service.serving import serving, settings_for, until
from tests.api_service.sse import ask, text_of, watching
from tests.api_service.writing import Writer
from tests.servers import redis_at
from tests.valkeys import REFUSALS, tell, two_servers

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "kind", ["a demoted server", "a replica that lost its primary", "a full server", "a user who may not write"]
)
async def test_a_stream_goes_on_over_the_server_to_which_the_name_leads_now(
    api_database_url: str,
    valkey: Valkey,
    api_engine: AsyncEngine,
    tmp_path: Path,
    words: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with two_servers(tmp_path) as (one, other, name):
        settings = settings_for(api_database_url, valkey)
        settings = replace(settings, redis=RedisSettings(redis_url=SecretStr(name.url)))
        async with serving(settings) as url, ClientSession(url) as client, redis_at(name.url) as redis:

            async def degraded() -> Any:
                async with client.get("/readyz") as response:
                    assert response.status == 200
                    return (await response.json())["degraded"]

            async def without_redis() -> bool:
                return "redis" in await degraded()

            async def with_redis() -> bool:
                return "redis" not in await degraded()

            await until(with_redis)
            question_id = await ask(client, words)
            writer = await Writer.begin(api_engine, redis, words)
            async with watching(client, question_id) as stream:
                await writer.write("It ")
                assert await stream.text(3) == "It "
                await REFUSALS[kind](one)
                await until(without_redis)
                # Nothing hangs meanwhile.
                await asyncio.wait_for(asyncio.gather(*(ask(client, f"{words} {n}") for n in range(20))), 30)
                name.lead_to(other)
                await until(with_redis)
                await redis.connection_pool.disconnect()
                await writer.restore()
                await writer.write("says ", "so.")
                assert await stream.text(8) == "says so."
                await writer.complete()
                assert text_of(await stream.rest()) == ""

                async def listens_there() -> bool:
                    return len(await redis.pubsub_channels(redis.name("final"))) == 1

                await until(listens_there)

            def lines() -> list[str]:
                return [r.getMessage() for r in caplog.records if "Redis" in r.getMessage()]

            async def told() -> bool:
                return len(lines()) == 2

            await until(told)
            assert lines()[0].startswith("Redis does not answer (")
            assert lines()[1] == "Redis answers again"
    ours = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith(("api_service", "found"))]
    assert len(ours) == 2, ours


async def test_a_server_that_is_well_again_is_used_again(
    api_database_url: str, valkey: Valkey, tmp_path: Path, words: str
) -> None:
    with Valkey(tmp_path / "own") as own:
        settings = replace(settings_for(api_database_url, valkey), redis=RedisSettings(redis_url=SecretStr(own.url())))
        async with serving(settings) as url, ClientSession(url) as client:

            async def is_degraded() -> bool:
                async with client.get("/readyz") as response:
                    return "redis" in (await response.json())["degraded"]

            async def is_well() -> bool:
                return not await is_degraded()

            for begin, end in (
                (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
                (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
            ):
                await until(is_well)
                await tell(own, ("CONFIG", "SET", "maxmemory-policy", "noeviction"), begin)
                await until(is_degraded)
                await ask(client, f"{words} {begin}")
                await tell(own, end)
                await until(is_well)
