"""PostgreSQL and Redis that go away and come back under a running API."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.postgresql import PostgreSQL
from embedded.valkey import Valkey
from foundation.postgresql.database import create_engine
from foundation.settings import BrokerSettings, DatabaseSettings
from schema.migrations.__main__ import migrate
from tests.api_service import worker_actions
from tests.api_service.serving import client_of, serving, settings_for, until
from tests.servers import execute, run_apart

pytestmark = pytest.mark.asyncio(loop_scope="module")

FINE = {200, 202}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL server to stop, start and kill, with the schema. It waits for its commits, as in earnest."""
    with PostgreSQL(tmp_path_factory.mktemp("mortal") / "data", settings={"fsync": "off"}) as server:
        run_apart(migrate(server.url))
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mortal_api(mortal: PostgreSQL, valkey: Valkey) -> AsyncIterator[ClientSession]:
    async with serving(settings_for(mortal.url, valkey)) as url, client_of(url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mortal_engine(mortal: PostgreSQL) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(mortal.url)), "tests")
    yield engine
    await engine.dispose()


async def stop(server: PostgreSQL | Valkey) -> None:
    await asyncio.to_thread(server.__exit__)


async def start(server: PostgreSQL | Valkey) -> None:
    await asyncio.to_thread(server.__enter__)


async def ask(api: ClientSession, words: str) -> tuple[int, Any]:
    async with api.post("/api/ask", json={"question_text": words}) as response:
        return response.status, await response.json()


async def read(api: ClientSession, question_id: int) -> int:
    async with api.get(f"/api/answer/{question_id}") as response:
        await response.read()
        return response.status


async def fill_the_pool(api: ClientSession, words: str) -> list[int]:
    """Ask so much at once that each connection of the pool is open; the ids."""
    asked = await asyncio.gather(*(ask(api, f"{words} {number}") for number in range(40)))
    assert {status for status, _ in asked} == {202}
    return [body["question_id"] for _, body in asked]


async def test_a_restart_of_postgresql_between_requests_is_not_noticed(
    mortal_api: ClientSession, mortal: PostgreSQL, words: str
) -> None:
    ids = await fill_the_pool(mortal_api, words)
    await stop(mortal)
    await start(mortal)
    assert set(await asyncio.gather(*(read(mortal_api, question_id) for question_id in ids))) == {200}
    await fill_the_pool(mortal_api, words + "?")


async def test_connections_that_the_server_ends_are_replaced(
    mortal_api: ClientSession, mortal: PostgreSQL, words: str
) -> None:
    ids = await fill_the_pool(mortal_api, words)
    ours = "application_name = 'api_service'"
    # With a time limit it returns when they have ended: a request on a connection that ends under it is refused (503).
    end = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {ours}"
    await asyncio.to_thread(execute, mortal.url, end)
    assert set(await asyncio.gather(*(read(mortal_api, question_id) for question_id in ids))) == {200}
    await fill_the_pool(mortal_api, words + "?")


async def test_without_postgresql_requests_are_refused_until_it_is_back(
    mortal_api: ClientSession,
    mortal: PostgreSQL,
    mortal_engine: AsyncEngine,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, asked = await ask(mortal_api, words)
    _, answered = await ask(mortal_api, words + " And why?")
    await worker_actions.complete(mortal_engine, words + " And why?", "Because.")
    assert await read(mortal_api, answered["question_id"]) == 200
    await stop(mortal)
    try:
        refused = [
            await mortal_api.post("/api/ask", json={"question_text": "what now?"}),
            await mortal_api.get(f"/api/answer/{asked['question_id']}"),
            await mortal_api.post(f"/api/answer/{asked['question_id']}/cancel"),
        ]
        await until(lambda: is_ready(mortal_api, False))
        refused.append(await mortal_api.get("/readyz"))
        for response in refused:
            problem = await response.json()
            assert (response.status, problem["code"], problem["retryable"]) == (503, "database_unavailable", True)
            assert int(response.headers["Retry-After"]) >= 1
        assert (await mortal_api.get("/livez")).status == 200
        assert await read(mortal_api, answered["question_id"]) == 200  # from Redis
    finally:
        await start(mortal)
    await until(lambda: is_ready(mortal_api, True))
    assert (await ask(mortal_api, words + "?"))[0] == 202
    assert await read(mortal_api, asked["question_id"]) == 200
    names = "api_service", "foundation.reachability"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(names)]
    assert len(ours) == 2
    assert "cannot be used" in ours[0]
    assert "can be used again" in ours[1]


async def set_read_only(server: PostgreSQL, value: str) -> None:
    """``on``: for the sessions that there are, while new ones are writable, as after a failover that closed none."""
    await asyncio.to_thread(execute, server.url, "ALTER ROLE postgres SET default_transaction_read_only = off")
    await asyncio.to_thread(execute, server.url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await asyncio.to_thread(execute, server.url, "SELECT pg_reload_conf()")


async def test_a_failover_that_leaves_connections_open_costs_at_most_a_request_a_connection(
    mortal_api: ClientSession, mortal: PostgreSQL, words: str
) -> None:
    await fill_the_pool(mortal_api, words)
    await set_read_only(mortal, "on")
    try:
        async with asyncio.timeout(10):
            while (await ask(mortal_api, words + "?"))[0] != 202:
                await asyncio.sleep(0.05)
        await fill_the_pool(mortal_api, words + "??")
        await until(lambda: is_ready(mortal_api, True))
    finally:
        await set_read_only(mortal, "off")


async def test_a_server_that_takes_no_writes_is_told(
    mortal_api: ClientSession, mortal: PostgreSQL, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, asked = await ask(mortal_api, words)
    assert status == 202
    await asyncio.to_thread(execute, mortal.url, "ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        ours = "application_name = 'api_service'"
        end = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE {ours}"
        await asyncio.to_thread(execute, mortal.url, end)
        await until(lambda: is_ready(mortal_api, False))
        async with mortal_api.get("/readyz") as response:
            problem = await response.json()
            assert (response.status, problem["code"]) == (503, "database_unavailable")
            assert "it is read-only" in problem["detail"]
        assert (await ask(mortal_api, words + "?"))[0] == 503
        assert await read(mortal_api, asked["question_id"]) == 200  # what is there can be read
    finally:
        await asyncio.to_thread(
            execute,
            f"{mortal.url}&options=-c%20default_transaction_read_only%3Doff",
            "ALTER ROLE postgres RESET default_transaction_read_only",
        )
    await until(lambda: is_ready(mortal_api, True))
    assert (await ask(mortal_api, words + "?"))[0] == 202
    lines = [record.getMessage() for record in caplog.records if record.name == "foundation.reachability"]
    told = [("it is read-only" in line, "again" in line) for line in lines]
    # What an earlier test broke may be noticed to be back only now.
    assert told[told[0] == (False, True) :] == [(True, False), (False, True)]


async def ask_and_wait(api: ClientSession, words: str, seconds: int) -> tuple[int, Any]:
    async with api.post(f"/api/ask?wait={seconds}", json={"question_text": words}) as response:
        return response.status, await response.json()


async def test_who_asks_and_waits_is_told_that_it_was_accepted_though_postgresql_goes_away(
    mortal_api: ClientSession, mortal: PostgreSQL, mortal_engine: AsyncEngine, words: str
) -> None:
    hasty = asyncio.create_task(ask_and_wait(mortal_api, words, 3))
    patient = asyncio.create_task(ask_and_wait(mortal_api, words + "?", 60))

    for asked in (words, words + "?"):
        await until(partial(worker_actions.stored, mortal_engine, asked))
    await stop(mortal)
    try:
        status, body = await hasty
        assert (status, body["status"]) == (202, "queued")
    finally:
        await start(mortal)
    assert await read(mortal_api, body["question_id"]) == 200
    await worker_actions.complete(mortal_engine, words + "?", "It says so.")
    status, body = await patient
    assert (status, body["answer_text"]) == (200, "It says so.")


async def is_ready(api: ClientSession, ready: bool) -> bool:
    async with api.get("/readyz") as response:
        return (response.status == 200) == ready


async def test_what_was_accepted_while_postgresql_is_killed_is_there_afterwards(
    mortal_api: ClientSession, mortal: PostgreSQL, words: str
) -> None:
    accepted: list[int] = []
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def client(name: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            status, body = await ask(mortal_api, f"{words} {name} {number}")
            statuses[status] += 1
            if status == 202:
                accepted.append(body["question_id"])
                statuses[await read(mortal_api, body["question_id"])] += 1

    clients = [asyncio.create_task(client(name)) for name in range(16)]

    async def asked_more(than: int) -> None:
        async def is_so() -> bool:
            return len(accepted) > than

        await until(is_so)

    await asked_more(100)
    mortal._child.kill()
    await stop(mortal)
    await start(mortal)
    await asked_more(len(accepted) + 100)
    over.set()
    await asyncio.gather(*clients)
    assert set(statuses) <= FINE | {503}
    assert set(await asyncio.gather(*(read(mortal_api, question_id) for question_id in accepted))) == {200}


async def test_it_waits_for_the_schema(
    empty_database_url: str, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings_for(empty_database_url, valkey)) as url, client_of(url) as api:
        assert await is_ready(api, False)
        status, problem = await ask(api, "why?")
        assert (status, problem["code"]) == (503, "database_unavailable")
        assert await read(api, 1) == 503
        await migrate(empty_database_url)
        await until(lambda: is_ready(api, True))
        assert (await ask(api, "why?"))[0] == 202
    names = "api_service", "foundation.reachability"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(names)]
    assert len(ours) == 2
    assert "run the migrations" in ours[0]


async def test_a_broker_that_hangs_holds_nobody_up(api_database_url: str, valkey: Valkey, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # takes connections, and never says a word
        broker = BrokerSettings(broker_url=SecretStr(f"amqp://127.0.0.1:{hung.getsockname()[1]}"))
        settings = replace(settings_for(api_database_url, valkey), broker=broker)
        async with serving(settings) as url, client_of(url) as api:

            async def is_missed() -> bool:
                async with api.get("/readyz") as response:
                    assert response.status == 200
                    return "broker" in (await response.json())["degraded"]

            await fill_the_pool(api, words)
            await until(is_missed)
            await fill_the_pool(api, words + "?")


async def test_without_redis_and_broker_everything_goes_on(api_database_url: str, tmp_path: Path, words: str) -> None:
    valkey = Valkey(tmp_path)
    async with serving(settings_for(api_database_url, valkey)) as url, client_of(url) as api:

        async def degraded() -> list[str]:
            async with api.get("/readyz") as response:
                assert response.status == 200
                body: dict[str, list[str]] = await response.json()
                return body["degraded"]

        async def without_both() -> bool:
            return await degraded() == ["broker", "redis", "model"]

        async def with_both() -> bool:
            return await degraded() == ["model"]

        await until(without_both)
        status, asked = await ask(api, words)
        assert status == 202
        assert await read(api, asked["question_id"]) == 200
        async with api.post(f"/api/answer/{asked['question_id']}/cancel") as response:
            assert (await response.json())["status"] == "cancelled"
        await start(valkey)
        try:
            await until(with_both)
            assert (await ask(api, words + "?"))[0] == 202
        finally:
            await stop(valkey)
        assert (await ask(api, words + "??"))[0] == 202  # by sending a hint it learns that the broker is gone
        await until(without_both)
