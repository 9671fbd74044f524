"""Bring the database up to date, waiting for it to be reachable; safe to run several times at once."""

import asyncio
import logging
import sys
import time

from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from foundation.database import async_url, tls_arguments
from foundation.logs import configure_logging
from foundation.settings import DatabaseSettings, LogSettings, SettingsError, load
from questions.migrations import alembic_config, needed_revision

logger = logging.getLogger("questions.migrations")

_PATIENCE_SECONDS = 60
# Any number will do, as long as nothing else in this database uses it.
_LOCK = 0x61736B6D657368


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def migrate(database_url: str) -> None:
    """Apply the steps that are missing. Of several that run at once, one works and the others wait for it."""
    engine = create_async_engine(async_url(database_url), connect_args=tls_arguments(database_url))
    try:
        async with engine.connect() as connection:
            # Not by waiting in a statement: CREATE INDEX CONCURRENTLY would wait for that statement's end.
            while not (await connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK})).scalar():
                await connection.commit()
                await asyncio.sleep(0.1)
            await connection.commit()
            await connection.run_sync(_upgrade)
            await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            await connection.commit()
    finally:
        await engine.dispose()


async def _migrate_when_reachable(database_url: str) -> None:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await migrate(database_url)
        except (OSError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated and error.statement:
                raise
            if time.monotonic() > give_up_at:
                raise
            logger.warning("PostgreSQL, at ASKMESH_DATABASE_URL, is not reachable yet (%s)", type(error).__name__)
            await asyncio.sleep(1)


def main() -> int:
    """Run from the command line; 0 once the database is up to date."""
    try:
        settings = load(DatabaseSettings)
        configure_logging("migrations", load(LogSettings))
    except SettingsError as error:
        print(f"migrations: {error}", file=sys.stderr)  # noqa: T201 - the log is not set up yet
        return 2
    asyncio.run(_migrate_when_reachable(settings.database_url.get_secret_value()))
    logger.info("the database has revision %s", needed_revision())
    return 0


if __name__ == "__main__":
    sys.exit(main())
