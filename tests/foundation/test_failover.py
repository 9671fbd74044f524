"""Connections that lead to a server which is no primary any more, or never was."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql import database
from foundation.postgresql.database import check_session, create_engine, fetch
from foundation.postgresql.errors import UnsuitableSessionError, explain, is_outage
from foundation.settings import DatabaseSettings
from tests.debian_postgresql import DebianPostgresql, debian_postgresql, standby_of
from tests.switchboard import switchboard

pytestmark = pytest.mark.postgresql

WRITE = text("INSERT INTO notes VALUES (:note) RETURNING inet_server_port() AS port")
WHERE = text("SELECT inet_server_port() AS port")


@pytest.fixture(scope="module")
def first() -> Iterator[DebianPostgresql]:
    """A primary with one table."""
    with debian_postgresql() as server:
        server.sql("CREATE TABLE notes (note text); ALTER TABLE notes OWNER TO mesh", database="mesh")
        yield server


@pytest.fixture
def second(first: DebianPostgresql) -> Iterator[DebianPostgresql]:
    """Its standby."""
    with standby_of(first) as server:
        yield server


def pool(url: str, size: int = 3) -> AsyncEngine:
    settings = DatabaseSettings(database_url=SecretStr(url)).model_copy(update={"database_pool_size": size})
    return create_engine(settings, "tests")


async def filled(engine: AsyncEngine) -> None:
    """Open each connection of the pool, and let them grow older than what is not given up yet."""

    async def hold() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.2)"))

    await asyncio.gather(*(hold() for _ in range(3)))
    old_at = time.monotonic() + database._FRESH_SECONDS + 0.05
    while time.monotonic() < old_at:
        await asyncio.sleep(0.05)


async def write(engine: AsyncEngine, *, in_one_statement: bool) -> int:
    """The port of the server that took the row."""
    if in_one_statement:
        port: int = (await fetch(engine, WRITE, {"note": "a"}))[0]["port"]
        return port
    async with engine.begin() as connection:
        return int((await connection.execute(WRITE, {"note": "a"})).scalar_one())


async def look(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await check_session(connection)


async def until_read_only(operation: Callable[[], Awaitable[object]]) -> None:
    """Repeat it until the session has taken note, and look at what is said then."""
    async with asyncio.timeout(30):
        while True:
            try:
                await operation()
            except (DBAPIError, UnsuitableSessionError) as error:
                assert is_outage(error)  # noqa: PT017 - any number of operations come before
                assert "read-only" in explain(error)  # noqa: PT017
                return


@pytest.mark.parametrize("in_one_statement", [True, False])
async def test_after_one_refusal_all_connections_lead_where_the_name_leads_now(
    first: DebianPostgresql, second: DebianPostgresql, in_one_statement: bool
) -> None:
    async with switchboard(first.port) as board:
        engine = pool(first.url(port=board.port))
        await filled(engine)
        assert await write(engine, in_one_statement=in_one_statement) == first.port
        second.promote()
        board.leads_to = second.port
        first.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await until_read_only(partial(write, engine, in_one_statement=in_one_statement))
            written = await asyncio.gather(*(write(engine, in_one_statement=in_one_statement) for _ in range(6)))
            assert set(written) == {second.port}
        finally:
            first.sql("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
            await engine.dispose()


async def test_who_only_reads_finds_out_by_looking(first: DebianPostgresql, second: DebianPostgresql) -> None:
    async with switchboard(first.port) as board:
        engine = pool(first.url(port=board.port))
        await filled(engine)
        second.promote()
        board.leads_to = second.port
        first.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await until_read_only(partial(look, engine))
            found = await asyncio.gather(*(fetch(engine, WHERE, {}) for _ in range(6)))
            assert {rows[0]["port"] for rows in found} == {second.port}
        finally:
            first.sql("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
            await engine.dispose()


async def test_a_standby_is_no_place_to_connect_to(first: DebianPostgresql, second: DebianPostgresql) -> None:
    engine = pool(second.url())
    try:
        for _ in range(50):  # nor to ask a second time at once, which would cost the server a process each time
            with pytest.raises(UnsuitableSessionError, match="standby") as refused:
                await fetch(engine, WHERE, {})
            assert is_outage(refused.value)
        assert 1 <= second.log.count("connection authorized: user=mesh") <= 5
        second.promote()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await write(engine, in_one_statement=True) == second.port
                    break
                except UnsuitableSessionError:
                    await asyncio.sleep(0.1)
    finally:
        await engine.dispose()


async def test_where_all_is_read_only_connections_are_kept(first: DebianPostgresql) -> None:
    engine = pool(first.url(), size=1)
    first.sql("ALTER ROLE mesh SET default_transaction_read_only = on")
    try:
        pids = set()
        for _ in range(10):
            with pytest.raises(DBAPIError):
                await write(engine, in_one_statement=True)
            pids.add((await fetch(engine, text("SELECT pg_backend_pid() AS pid"), {}))[0]["pid"])
        assert len(pids) <= 2
    finally:
        first.sql("ALTER ROLE mesh RESET default_transaction_read_only")
        await engine.dispose()


async def test_of_several_hosts_the_primary_is_taken(first: DebianPostgresql, second: DebianPostgresql) -> None:
    nobody = "127.0.0.1:1"
    hosts = f"{nobody},127.0.0.1:{second.port},127.0.0.1:{first.port}"
    url = first.url().replace(f"127.0.0.1:{first.port}", hosts)
    engine = pool(url, size=1)
    try:
        assert await write(engine, in_one_statement=True) == first.port
        second.promote()
        first.sql("ALTER ROLE mesh SET default_transaction_read_only = on")
        eager = pool(f"{url}?target_session_attrs=read-write", size=1)
        assert await write(eager, in_one_statement=True) == second.port
        await eager.dispose()
    finally:
        first.sql("ALTER ROLE mesh RESET default_transaction_read_only")
        await engine.dispose()
