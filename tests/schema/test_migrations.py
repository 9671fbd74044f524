import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import CheckConstraint, Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from schema.migrations import alembic_config, engine_is_up_to_date, needed_revision
from schema.migrations.__main__ import migrate
from schema.tables import metadata


async def test_migrating_twice_at_once_and_again_works(empty_database_url: str) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(empty_database_url)), "tests")
    try:
        assert not await engine_is_up_to_date(engine, needed_revision())
        await asyncio.gather(*(migrate(empty_database_url) for _ in range(3)))
        await migrate(empty_database_url)
        assert await engine_is_up_to_date(engine, needed_revision())
    finally:
        await engine.dispose()


async def test_a_newer_database_serves_an_older_release(engine: AsyncEngine) -> None:
    assert await engine_is_up_to_date(engine, "0000")
    assert not await engine_is_up_to_date(engine, "9999")


async def test_the_migrations_make_the_tables_that_the_code_describes(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        # What the comparison leaves out.
        constraints = await connection.execute(
            text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")
        )
        described = {
            str(constraint.name)
            for table in metadata.tables.values()
            for constraint in table.constraints
            if isinstance(constraint, CheckConstraint)
        }
        assert described <= set(constraints.scalars())
        await connection.execute(text("SELECT nextval('claim_tokens')"))


def upgrade_to(revision: str) -> Callable[[Connection], None]:
    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    return run


# Whatever the name of an index is while steps replace it, one by these columns is there and complete.
SERVED = text("""
    SELECT count(*) FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indisvalid AND indrelid = CAST(:table AS regclass) AND attname = :column
""")


@pytest.mark.alone
async def test_steps_hold_up_no_reader_while_a_long_transaction_has_read_the_tables(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(empty_database_url)), "tests")
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_to("0002"))
        await connection.commit()
    dump = await asyncpg.connect(empty_database_url)
    await dump.execute("BEGIN; SELECT FROM answers")
    longest = 0.0

    async def read_until(over: Callable[[], bool]) -> None:
        nonlocal longest
        while not over():
            began = time.monotonic()
            async with engine.connect() as reader:
                await reader.execute(text("SELECT FROM answers WHERE id = 1"))
                for table, column in (("questions", "owner"), ("answers", "holder")):
                    assert (await reader.execute(SERVED, {"table": table, "column": column})).scalar_one() >= 1
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        migrating = asyncio.create_task(migrate(empty_database_url))
        await read_until(lambda: migrating.done() or "a table is in use" in caplog.text)
        tried_again_at = time.monotonic() + 5
        await read_until(lambda: migrating.done() or time.monotonic() > tried_again_at)
        assert not migrating.done()
        await dump.execute("COMMIT")
        await dump.close()
        await read_until(migrating.done)
        await migrating
    assert await engine_is_up_to_date(engine, needed_revision())
    assert longest < 2  # LOCK_TIMEOUT is 0.2 s; without it, it would be the 7 s for which the transaction was open
    assert "a table is in use by a session (process" in caplog.text
    await engine.dispose()


@pytest.mark.parametrize("revision", ["0003", "0004", "0005"])
async def test_a_step_that_was_cut_short_begins_anew(empty_database_url: str, revision: str) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(empty_database_url)), "tests")
    before = f"{int(revision) - 1:04d}"
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_to(before))
        await connection.commit()
        await connection.run_sync(upgrade_to(revision))
        await connection.commit()
        if revision == "0003":  # its tables come after its index, in one transaction with its number
            await connection.execute(text("DROP TABLE api_keys"))
        await connection.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})
        await connection.commit()
    await migrate(empty_database_url)
    async with engine.connect() as connection:
        assert await engine_is_up_to_date(engine, needed_revision())
        left = await connection.execute(text("SELECT relname FROM pg_class WHERE relname ~ '_(new|old)$'"))
        assert left.all() == []
    await engine.dispose()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["schema.migrations", "questions.migrations"])
def test_the_command_goes_by_its_former_name_too(empty_database_url: str, name: str) -> None:
    command = [sys.executable, "-m", name]
    environment = {"PATH": os.environ["PATH"], "ASKMESH_DATABASE_URL": empty_database_url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert needed_revision() in done.stderr + done.stdout
