import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from foundation.database import async_url
from questions.migrations import engine_is_up_to_date, needed_revision
from questions.migrations.__main__ import migrate
from questions.tables import metadata

pytestmark = pytest.mark.integration


async def test_migrating_twice_at_once_and_again_works(empty_database_url: str) -> None:
    engine = create_async_engine(async_url(empty_database_url))
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
