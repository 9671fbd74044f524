"""Telling an absent database from a defect."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api_service.problems import UNAVAILABLE, Code, ProblemError

T = TypeVar("T")

_RETRY_AFTER_SECONDS = 2

# Classes and codes of SQLSTATE: no connection, rolled back because of another (deadlock), no resources, timed out or
# shutting down, read-only (a standby after a failover), no such database, and no schema yet.
_UNAVAILABLE = ("08", "40", "53", "57", "25006", "3D000", "42P01", "42703")


def is_unavailable(error: BaseException) -> bool:
    """Whether PostgreSQL, or the schema in it, is absent for now, rather than the statement wrong."""
    if isinstance(error, DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or sqlstate.startswith(_UNAVAILABLE)
    # asyncpg raises plain OSError where it cannot connect, and TimeoutError, which is one, where a statement hangs.
    return isinstance(error, OSError | PoolTimeoutError)


def unavailable() -> ProblemError:
    """The problem to end a request with meanwhile."""
    return ProblemError(Code.DATABASE_UNAVAILABLE, UNAVAILABLE, headers={"Retry-After": str(_RETRY_AFTER_SECONDS)})


async def reach(operation: Callable[[], Awaitable[T]], *, again: bool = False) -> T:
    """Run a database operation. ``again``: once more if its connection is lost, which only a read may be.

    Raises a ProblemError while PostgreSQL is absent. An insert whose commit was cut off is among these: it may or may
    not have happened. To ask again is safe all the same, because the same question shares the answer of the first.
    """
    try:
        return await operation()
    except (DBAPIError, OSError, PoolTimeoutError) as error:
        if not is_unavailable(error):
            raise
        if again and isinstance(error, DBAPIError) and error.connection_invalidated:
            return await reach(operation)
        raise unavailable() from error
