"""What a database must be like before askmesh makes its tables in it."""

import logging
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from foundation.postgresql.database import check_session
from foundation.postgresql.errors import UnsuitableSessionError

logger = logging.getLogger("schema.migrations")

_OLDEST: Final = 120_000
"""PostgreSQL 12: the first with plan_cache_mode and tcp_user_timeout both, and an index is renamed beside readers."""

_STATE = text("""
    SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS called,
        current_setting('server_encoding') AS encoding, current_schema() AS schema, current_user AS role,
        has_schema_privilege(current_schema(), 'CREATE') AS may_create
""")


class UnsuitableDatabaseError(Exception):
    """The database can hold no questions and answers. The message says why, with the remedy, in one line."""


async def check_database(engine: AsyncEngine) -> None:
    """Raise UnsuitableDatabaseError, and what a statement raises, unless the database can be migrated.

    Two connections at a time find out a pooler that hands one server's session to both.
    """
    async with engine.connect() as first, engine.connect() as second:
        try:
            for connection in (second, first):
                await check_session(connection)
        except UnsuitableSessionError as error:
            raise UnsuitableDatabaseError(error.reason) from None
        await _check_state(first)


async def _check_state(connection: AsyncConnection) -> None:
    found = (await connection.execute(_STATE)).one()
    await connection.rollback()
    if found.version < _OLDEST:
        raise UnsuitableDatabaseError(f"it is version {found.called}, and 12 or later is needed")
    if found.encoding == "SQL_ASCII":
        logger.warning("the database's encoding is SQL_ASCII: what others write there may be no valid text; take UTF8")
    elif found.encoding != "UTF8":
        raise UnsuitableDatabaseError(
            f"the database's encoding is {found.encoding}, which cannot hold every text: make one with"
            " CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )
    if found.schema is None:
        raise UnsuitableDatabaseError(
            "no schema of its search_path is there, or the user may use none: create one, or set search_path by"
            " options=-c%20search_path%3Dname in ASKMESH_DATABASE_URL"
        )
    if not found.may_create:
        raise UnsuitableDatabaseError(
            f"the user may make no tables in the schema {found.schema}: as its owner run"
            f' GRANT USAGE, CREATE ON SCHEMA "{found.schema}" TO "{found.role}"'
        )
