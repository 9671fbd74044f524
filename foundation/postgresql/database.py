"""PostgreSQL as a process uses it: its connections, what is done about its errors, and whether it answers."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Final, ParamSpec, Self, TypeVar

import asyncpg
from sqlalchemy import TextClause, event, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi, dialect
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import greenlet_spawn

from foundation.postgresql.connecting import MARK, Connector, MarkedConnection
from foundation.postgresql.errors import (
    DATABASE_ERRORS,
    HANDED_ROUND,
    READ_ONLY,
    UnsuitableSessionError,
    is_outage,
    leads_astray,
    sqlstate,
)
from foundation.postgresql.fair_pool import FairPool
from foundation.postgresql.url import PostgresqlUrlError, parse_postgresql_url
from foundation.reachability import Reachability
from foundation.settings import PREFIX, DatabaseSettings, SettingsError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SESSION: Final = {
    "default_transaction_isolation": "read committed",
    "tcp_user_timeout": "10s",
    "jit": "off",
}
"""What statements rely on, whatever the defaults of the server, the database or the role are.

Not default_transaction_read_only: who sets that, as hosts of databases do when a disk is full, means it.
"""

BY_INDEX: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    "plan_cache_mode": "force_generic_plan",
}
"""What leaves PostgreSQL one plan for a statement: by an index that fits its WHERE and ORDER BY, row by row.

A plan by statistics is one by statistics that are a minute old, in which a burst has not begun or is not over.
"""

_SINCE: Final = "askmesh_since"
# A connection that has just been made leads to where the name leads now. While all servers are read-only, each
# connection is so made anew at most once in this time.
_FRESH_SECONDS: Final = 1.0
_SESSION_STATE = text(
    f"SELECT current_setting('transaction_read_only') = 'on' AS read_only, current_setting('{MARK}', true) AS mark"
)


_RETRY_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 1.0


class DatabaseUnavailableError(Exception):
    """PostgreSQL is absent for now; the cause says why."""


class Database:
    """What a process does with PostgreSQL, and what it does about PostgreSQL's errors.

    ``foundation.postgresql.errors`` says which of them are an outage, which passes, and which a defect. A request that
    somebody waits for goes by ``call``, or by ``read`` if it may be done twice. What has to be written, however long
    that takes, goes by ``retry``. What comes again by itself, as a round of a sweeper, goes within ``attempt``.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        reachability: Reachability,
        *,
        unavailable: Callable[[], Exception] = DatabaseUnavailableError,
    ) -> None:
        """``reachability`` hears of what ``retry`` and ``attempt`` do. ``unavailable``: what ``call`` raises."""
        self.engine = engine
        """For transactions, and for ``fetch``."""
        self.autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        """The same connections, for statements by themselves: one round trip each, without BEGIN and ROLLBACK."""
        self.reachability = reachability
        self._unavailable = unavailable

    def call(self, operation: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> Awaitable[T]:
        """Run an operation once; what a read-only server refused, once more.

        Nothing of that was done, and after a failover the next connection leads to the new primary. Raises
        ``unavailable()`` while PostgreSQL is absent. An insert whose commit was cut off is among these: it may or may
        not have happened.
        """
        return self._call(lambda: operation(*arguments, **options), is_repeatable=False)

    def read(self, operation: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> Awaitable[T]:
        """As ``call``, for what may be done twice: once more, too, if its connection is lost."""
        return self._call(lambda: operation(*arguments, **options), is_repeatable=True)

    async def _call(self, operation: Callable[[], Awaitable[T]], *, is_repeatable: bool) -> T:
        try:
            return await operation()
        except DATABASE_ERRORS as error:
            if not is_outage(error):
                raise
            is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
            if is_lost and (is_repeatable or sqlstate(error) == READ_ONLY):
                return await self._call(operation, is_repeatable=False)
            raise self._unavailable() from error

    async def retry(
        self, operation: Callable[[], Awaitable[T]], *, while_true: Callable[[], bool] = lambda: True
    ) -> T | None:
        """Repeat the operation until its outcome is known; None if ``while_true`` has said before that it is in vain.

        Raises what is a defect. An operation whose commit was cut off is repeated, so that it has to bear that: a write
        that changes the state which it depends on does.
        """
        while while_true():
            try:
                outcome = await operation()
            except DATABASE_ERRORS as error:
                if not is_outage(error):
                    raise
                self.reachability.failed(error)
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
            else:
                self.reachability.succeeded()
                return outcome
        return None

    def attempt(self) -> "DatabaseAttempt":
        """A block that ends, and nothing else, where PostgreSQL fails; ``reachability`` hears how it went."""
        return DatabaseAttempt(self.reachability)

    async def close(self) -> None:
        """Close the connections."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.engine.dispose()
        except DATABASE_ERRORS:
            logger.info("a connection to PostgreSQL did not close in order")


class DatabaseAttempt:
    """The block of ``Database.attempt``. Defects end it too: a part that comes again by itself goes on trying."""

    def __init__(self, reachability: Reachability) -> None:
        self._reachability = reachability
        self.failed = False
        """Whether PostgreSQL ended the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, DATABASE_ERRORS):
            self.failed = True
            self._reachability.failed(error)
        elif error is None:
            self._reachability.succeeded()
        return self.failed


def create_engine(
    settings: DatabaseSettings,
    application: str,
    *,
    planned_freely: bool = False,
    unlimited: Mapping[str, str] | None = None,
) -> AsyncEngine:
    """A pool of connections that shows itself as ``application`` in pg_stat_activity.

    A statement may take 10 s, a transaction may idle 10 s, and a peer that vanished is noticed within 10 s
    (tcp_user_timeout), so that a frozen process holds no lock for longer.

    ``planned_freely``: for statements that are no look-ups by an index, as operators' are; else see ``BY_INDEX``.
    ``unlimited``: statements may take any time, as migrations do, and sessions have these settings besides.

    Raises SettingsError where the URL is none.
    """
    try:
        url = parse_postgresql_url(settings.database_url.get_secret_value())
    except PostgresqlUrlError as error:
        raise SettingsError(f"{PREFIX}DATABASE_URL: {error}") from None
    limits = SESSION | {"statement_timeout": "10s", "idle_in_transaction_session_timeout": "10s", "lock_timeout": "0"}
    if unlimited is not None:
        limits = SESSION | {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"} | dict(unlimited)
    connector = Connector(
        url,
        application,
        limits if planned_freely or unlimited is not None else limits | BY_INDEX,
        command_seconds=10 if unlimited is None else None,
    )
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=FairPool,
        pool_use_lifo=True,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,  # what people asked would stand in the messages of errors
        connect_args={"async_creator_fn": connector},
    )
    _give_up_connections(engine)
    return engine


def _give_up_connections(engine: AsyncEngine) -> None:
    """Have the pool replace connections that the server has closed, or that lead to a server that is no use any more.

    After a restart of PostgreSQL all are closed; asyncpg has noticed by the time a connection is checked out, so that
    this costs no round trip, unlike a ping. After a failover they may stay open and lead to what is read-only now. Once
    one of them says so, all that are as old are made anew when they are next needed.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def _note_age(_connection: object, record: Any) -> None:
        record.info[_SINCE] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def _check(connection: Any, record: Any, _proxy: object) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError("the server closed this connection")
        if record.info[_SINCE] < _pool(engine).doubted_at:
            raise DisconnectionError("this connection leads to a server that is no use any more")

    @event.listens_for(engine.sync_engine, "handle_error")
    def _doubt(context: ExceptionContext) -> None:
        if (
            context.connection is not None
            and not context.connection.invalidated
            and _is_given_up(context.original_exception, context.connection.info)
        ):
            context.is_disconnect = True


def _is_given_up(error: BaseException, info: Mapping[str, Any]) -> bool:
    """Whether a connection is to be replaced for this error.

    One that is new is not: it leads to where the name leads now, and so would its successor.
    """
    return leads_astray(error) and time.monotonic() - float(info[_SINCE]) > _FRESH_SECONDS


async def check_session(connection: AsyncConnection) -> None:
    """Raise UnsuitableSessionError unless the session is this connection's own, on a primary that takes writes.

    A connection that is found to lead elsewhere is given up with all of its pool that are as old.
    """
    found = (await connection.execute(_SESSION_STATE)).one()
    await connection.rollback()
    pooled = await connection.get_raw_connection()
    driver = pooled.driver_connection
    assert isinstance(driver, MarkedConnection)
    if not found.read_only and found.mark == driver.mark:
        return
    if time.monotonic() - pooled.info[_SINCE] > _FRESH_SECONDS:
        _pool(connection.engine).doubted_at = time.monotonic()
    raise UnsuitableSessionError(READ_ONLY if found.read_only else HANDED_ROUND)


def _pool(engine: AsyncEngine) -> FairPool:
    pool = engine.sync_engine.pool
    assert isinstance(pool, FairPool)
    return pool


async def fetch(engine: AsyncEngine, statement: TextClause, parameters: Mapping[str, object]) -> list[asyncpg.Record]:
    """Run one statement by itself: it is committed when this returns, in one round trip.

    For what every question does: SQLAlchemy lends the connection and asyncpg runs the statement. Reading a row by its
    primary key so costs this process 0.15 ms instead of 0.6 ms, and PostgreSQL 0.06 ms instead of 0.15 ms.

    Raises what a statement of SQLAlchemy does. After a DBAPIError with ``connection_invalidated`` nobody knows whether
    it was committed.
    """
    source, names = _compiled(statement)
    try:
        pooled = await greenlet_spawn(engine.pool.connect)
    except AsyncAdapt_asyncpg_dbapi.Error as error:
        raise DBAPIError(source, {}, error, hide_parameters=True) from error
    connection: Any = pooled.driver_connection
    try:
        records: list[asyncpg.Record] = await connection.fetch(source, *[parameters[name] for name in names])
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        lost = connection.is_closed()
        if not lost and _is_given_up(error, pooled.info):
            _pool(engine).doubted_at = time.monotonic()
            lost = True
        raise DBAPIError(source, {}, error, hide_parameters=True, connection_invalidated=lost) from error
    except asyncpg.InternalClientError as error:
        # The server has ended the connection just before, and asyncpg has read half of its farewell.
        pooled.invalidate()
        raise DBAPIError(source, {}, error, hide_parameters=True, connection_invalidated=True) from error
    except BaseException:
        pooled.invalidate()  # it may still be at work on this statement
        raise
    finally:
        pooled.close()
    return records


@cache
def _compiled(statement: TextClause) -> tuple[str, tuple[str, ...]]:
    """The statement as asyncpg wants it, and the names of its parameters in order."""
    compiled = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
    return str(compiled), tuple(compiled.positiontup or ())
