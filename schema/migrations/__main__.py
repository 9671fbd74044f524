"""Bring the database up to date, waiting for it to be reachable; safe to run several times at once."""

import asyncio
import logging
import sys
import time
from typing import Final

from alembic import command
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from foundation.logs import configure_logging
from foundation.postgresql.database import create_engine
from foundation.postgresql.errors import DATABASE_ERRORS, explain, is_outage, never_passes, sqlstate
from foundation.settings import DatabaseSettings, LogSettings, SettingsError, load
from schema.migrations import alembic_config, needed_revision
from schema.migrations.requirements import UnsuitableDatabaseError, check_database
from schema.migrations.steps import LOCK_TIMEOUT

logger = logging.getLogger("schema.migrations")

# `make run` gives up a service that waits for the schema after 60 s, and would name that one instead.
_PATIENCE_SECONDS: Final = 50.0
# Any number will do, as long as nothing else in this database uses it.
_LOCK: Final = 0x61736B6D657368

# Whoever waits for a lock holds up all who come after. So nobody is held up for longer than LOCK_TIMEOUT at a time, and
# in the pauses all go on.
_LOCKED: Final = ("55P03", "40P01")
_PAUSE_SECONDS: Final = 2.0
_LOCK_PATIENCE_SECONDS: Final = 1_800.0
_TELL_AGAIN_SECONDS: Final = 60.0
_LOCKERS = text(f"""
    SELECT string_agg(format('%s (process %s, for %s s)', coalesce(nullif(application_name, ''), 'a session'), pid,
        round(extract(epoch FROM clock_timestamp() - xact_start))), ', ' ORDER BY xact_start) AS lockers
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND xact_start < clock_timestamp() - interval '{LOCK_TIMEOUT}' AND pid IN (
        SELECT pid FROM pg_locks JOIN pg_class ON pg_class.oid = pg_locks.relation
        WHERE granted AND relnamespace = current_schema()::regnamespace
    )
""")


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def migrate(database_url: str) -> None:
    """Apply the steps that are missing. Of several that run at once, one works and the others wait for it.

    Raises UnsuitableDatabaseError, and what a statement raises. A lock on a table that is in use is asked for again and
    again, for half an hour.
    """
    engine = create_engine(
        DatabaseSettings(database_url=SecretStr(database_url), database_pool_size=2),
        "migrations",
        unlimited={"lock_timeout": LOCK_TIMEOUT},
    )
    try:
        await check_database(engine)
        async with engine.connect() as connection:
            # Not by waiting in a statement: CREATE INDEX CONCURRENTLY would wait for that statement's end.
            while not (await connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK})).scalar():
                await connection.commit()
                await asyncio.sleep(0.1)
            await connection.commit()
            await _upgrade_between_locks(connection, engine)
            await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            await connection.commit()
    finally:
        await engine.dispose()


async def _upgrade_between_locks(connection: AsyncConnection, engine: AsyncEngine) -> None:
    give_up_at = time.monotonic() + _LOCK_PATIENCE_SECONDS
    tell_at = 0.0
    while True:
        try:
            return await connection.run_sync(_upgrade)
        except DBAPIError as error:
            await connection.rollback()
            if sqlstate(error) not in _LOCKED or time.monotonic() > give_up_at:
                raise
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + _TELL_AGAIN_SECONDS
            async with engine.connect() as other:
                lockers = (await other.execute(_LOCKERS)).scalar()
            logger.warning(
                "a table is in use by %s: the step is tried again every %g s until that has ended",
                lockers or "short transactions",
                _PAUSE_SECONDS,
            )
        await asyncio.sleep(_PAUSE_SECONDS)


async def _migrate_when_reachable(database_url: str) -> None:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    told = ""
    while True:
        try:
            return await migrate(database_url)
        except DATABASE_ERRORS as error:
            if never_passes(error) or not is_outage(error) or time.monotonic() > give_up_at:
                raise
            if (reason := explain(error)) != told:
                told = reason
                logger.warning("waiting for PostgreSQL for up to %g s: %s", _PATIENCE_SECONDS, reason)
            await asyncio.sleep(1)


def main() -> int:
    """Run from the command line; 0 once the database is up to date, 2 for a wrong setting, 1 where it cannot be."""
    try:
        settings = load(DatabaseSettings)
        configure_logging("migrations", load(LogSettings))
    except SettingsError as error:
        print(f"migrations: {error}", file=sys.stderr)  # noqa: T201 - the log is not set up yet
        return 2
    try:
        asyncio.run(_migrate_when_reachable(settings.database_url.get_secret_value()))
    except UnsuitableDatabaseError as error:
        logger.critical("PostgreSQL, at ASKMESH_DATABASE_URL, cannot be used: %s", error)
        return 1
    except DATABASE_ERRORS as error:
        if not is_outage(error):
            raise
        logger.critical("PostgreSQL, at ASKMESH_DATABASE_URL, cannot be used: %s", explain(error))
        return 1
    logger.info("the database has revision %s", needed_revision())
    return 0


if __name__ == "__main__":
    sys.exit(main())
