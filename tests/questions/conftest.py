from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.database import create_engine
from foundation.settings import DatabaseSettings


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on an empty, migrated database."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(database_url)), "tests")
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE questions, answers, workers"))
    yield engine
    await engine.dispose()
