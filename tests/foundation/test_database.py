import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine, fetch
from foundation.settings import DatabaseSettings

PID = text("SELECT pg_backend_pid() AS pid")
KILL_SELF = text("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
async def small_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool of one connection."""
    settings = DatabaseSettings(database_url=SecretStr(database_url)).model_copy(update={"database_pool_size": 1})
    engine = create_engine(settings, "tests")
    yield engine
    await engine.dispose()


async def pid(engine: AsyncEngine) -> int:
    (row,) = await fetch(engine, PID, {})
    found: int = row["pid"]
    return found


async def test_a_statement_takes_named_parameters_each_as_often_as_it_likes(small_engine: AsyncEngine) -> None:
    statement = text("SELECT CAST(:b AS int) - CAST(:a AS int) AS difference, CAST(:b AS int) AS b")
    (row,) = await fetch(small_engine, statement, {"a": 1, "b": 7, "other": None})
    assert dict(row) == {"difference": 6, "b": 7}


async def test_what_it_did_is_committed_and_a_transaction_that_follows_is_whole(small_engine: AsyncEngine) -> None:
    register = text("INSERT INTO workers (name, lease_until) VALUES (:name, clock_timestamp()) RETURNING id")
    (row,) = await fetch(small_engine, register, {"name": "first"})
    async with small_engine.connect() as connection:
        await connection.execute(register, {"name": "second"})
        # Leaving without a commit takes it back.
    assert [tuple(found) for found in await fetch(small_engine, text("SELECT id, name FROM workers"), {})] == [
        (row["id"], "first")
    ]


async def test_an_error_of_the_server_is_told_as_sqlalchemy_does_and_spares_the_connection(
    small_engine: AsyncEngine,
) -> None:
    before = await pid(small_engine)
    with pytest.raises(DBAPIError) as failed:
        await fetch(small_engine, text("SELECT 1 / CAST(:secret AS int)"), {"secret": 0})
    assert getattr(failed.value.orig, "sqlstate", None) == "22012"
    assert not failed.value.connection_invalidated
    assert await pid(small_engine) == before


async def test_a_lost_connection_is_told_and_replaced(small_engine: AsyncEngine) -> None:
    before = await pid(small_engine)
    with pytest.raises(DBAPIError) as failed:
        await fetch(small_engine, KILL_SELF, {})
    assert failed.value.connection_invalidated
    assert await pid(small_engine) != before


async def test_a_connection_whose_statement_was_given_up_serves_nobody_else(small_engine: AsyncEngine) -> None:
    before = await pid(small_engine)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await fetch(small_engine, text("SELECT pg_sleep(60)"), {})
    assert await pid(small_engine) != before


async def test_a_connection_that_the_server_is_just_ending_is_told_and_replaced(
    small_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await pid(small_engine)

    async def fetch_on_half_a_farewell(*_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "fetch", fetch_on_half_a_farewell)
        with pytest.raises(DBAPIError) as failed:
            await fetch(small_engine, PID, {})
    assert failed.value.connection_invalidated
    assert await pid(small_engine) != before


@pytest.mark.loopback
async def test_a_server_that_is_not_there_is_told(tmp_path: str) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(f"postgresql:///nothing?host={tmp_path}")), "tests")
    with pytest.raises(OSError, match="No such file"):
        await fetch(engine, PID, {})


async def test_a_database_that_is_not_there_is_told(database_url: str) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(database_url.replace("/test", "/no"))), "tests")
    with pytest.raises(DBAPIError) as failed:
        await fetch(engine, PID, {})
    assert getattr(failed.value.orig, "sqlstate", None) == "3D000"
