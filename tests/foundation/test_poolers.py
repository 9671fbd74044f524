"""PgBouncer with Debian's defaults before PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import BY_INDEX, SESSION, check_session, create_engine, fetch
from foundation.postgresql.errors import UnsuitableSessionError
from foundation.settings import DatabaseSettings
from schema.migrations.__main__ import migrate
from schema.migrations.requirements import UnsuitableDatabaseError
from tests.debian_postgresql import DebianPostgresql, debian_postgresql, pgbouncer

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[DebianPostgresql]:
    with debian_postgresql() as server:
        yield server


def pool(url: str) -> AsyncEngine:
    return create_engine(DatabaseSettings(database_url=SecretStr(url), database_pool_size=3), "tests")


SHOWN = text("SELECT name, current_setting(name) AS value FROM unnest(CAST(:names AS text[])) AS name")


async def shown(engine: AsyncEngine, names: list[str]) -> dict[str, str]:
    return {row["name"]: row["value"] for row in await fetch(engine, SHOWN, {"names": names})}


@pytest.mark.parametrize("ignored", ["", "extra_float_digits,statement_timeout,jit"])
async def test_each_session_has_its_settings_also_when_it_comes_to_a_server_that_was_used_before(
    server: DebianPostgresql, ignored: str
) -> None:
    more = {"ignore_startup_parameters": ignored} if ignored else {}
    with pgbouncer(server, "session", default_pool_size="3", **more) as port:
        await migrate(server.url(port=port))
        expected = SESSION | BY_INDEX | {"statement_timeout": "10s", "tcp_user_timeout": "10000"}
        for _ in range(3):
            engine = pool(server.url(port=port))
            seen = await asyncio.gather(*(shown(engine, list(expected)) for _ in range(6)))
            assert seen == [expected] * 6
            async with engine.connect() as connection:
                await check_session(connection)
            await engine.dispose()


async def test_pooling_by_transaction_is_refused_by_the_migrations(server: DebianPostgresql) -> None:
    with pgbouncer(server, "transaction") as port, pytest.raises(UnsuitableDatabaseError, match="pool by session"):
        await migrate(server.url(port=port))


async def test_pooling_by_transaction_is_found_out_by_services(server: DebianPostgresql) -> None:
    await migrate(server.url())
    with pgbouncer(server, "transaction") as port:
        first, second = pool(server.url(port=port)), pool(server.url(port=port))
        async with first.connect() as connection:
            await check_session(connection)
            async with second.connect() as other:
                await check_session(other)
            with pytest.raises(UnsuitableSessionError, match="pool by session"):
                await check_session(connection)
        await first.dispose()
        await second.dispose()


def test_the_log_of_the_migrations_has_the_remedy(server: DebianPostgresql) -> None:
    with pgbouncer(server, "transaction") as port:
        done = subprocess.run(
            [sys.executable, "-m", "schema.migrations"],
            env={"ASKMESH_DATABASE_URL": server.url(port=port), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "let it pool by session" in done.stderr
