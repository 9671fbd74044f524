"""The schema of PostgreSQL, step by step: ``python -m schema.migrations`` brings a database up to date.

Steps expand before they contract: code of the release before must work on the new schema. Revisions are numbered
(0001, 0002, …), so that a service can tell whether a database is at least as new as it needs.
"""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from foundation.postgresql.database import check_session
from foundation.postgresql.errors import UNDEFINED_TABLE, sqlstate

_FOLDER = Path(__file__).parent


def alembic_config() -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config


def needed_revision() -> str:
    """The revision that this release needs."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


async def is_up_to_date(connection: AsyncConnection, needed: str) -> bool:
    """Whether the database has at least the needed revision."""
    try:
        current = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    except DBAPIError as error:
        if sqlstate(error) != UNDEFINED_TABLE:
            raise
        # It was never migrated.
        await connection.rollback()
        return False
    return current is not None and current >= needed


async def engine_is_up_to_date(engine: AsyncEngine, needed: str) -> bool:
    """As ``is_up_to_date``, on a connection of the pool. Raises UnsuitableSessionError unless that takes writes."""
    async with engine.connect() as connection:
        await check_session(connection)
        return await is_up_to_date(connection, needed)
