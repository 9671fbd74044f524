"""Telling an absent database from a defect, and watching whether it is there."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.errors import UNAVAILABLE, ErrorCode, ServiceError
from foundation.postgresql.errors import (
    DATABASE_ERRORS,
    READ_ONLY,
    UnsuitableSessionError,
    explain,
    is_outage,
    sqlstate,
)
from schema.migrations import engine_is_up_to_date

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_AFTER_SECONDS = 2

is_unavailable = is_outage


def unavailable(reason: str = "") -> ServiceError:
    """The error to end a request with meanwhile. ``reason``: for operators."""
    detail = f"{UNAVAILABLE} PostgreSQL: {reason}." if reason else UNAVAILABLE
    return ServiceError(ErrorCode.DATABASE_UNAVAILABLE, detail, retry_after=_RETRY_AFTER_SECONDS)


async def reach(operation: Callable[[], Awaitable[T]], *, again: bool = False) -> T:
    """Run a database operation. ``again``: once more if its connection is lost, which only a read may be.

    What a read-only server refused is run once more in any case, because nothing of it was done: after a failover the
    next connection leads to the new primary.

    Raises a ServiceError while PostgreSQL is absent. An insert whose commit was cut off is among these: it may or may
    not have happened. To ask again is safe all the same, because the same question shares the answer of the first.
    """
    try:
        return await operation()
    except (DBAPIError, UnsuitableSessionError, OSError, PoolTimeoutError) as error:
        if not is_outage(error):
            raise
        given_up = isinstance(error, DBAPIError) and error.connection_invalidated
        if given_up and (again or sqlstate(error) == READ_ONLY):
            return await reach(operation)
        raise unavailable() from error


class DatabaseWatch:
    """Finds out whether PostgreSQL can be used: there, a primary that takes writes, and with the schema.

    The log gets a line when it cannot be, with the reason, and one when it can be again.
    """

    def __init__(self, engine: AsyncEngine, needed_revision: str) -> None:
        self._engine = engine
        self._needed = needed_revision
        self._missed = False

    async def problem(self) -> str:
        """Why it cannot be used; empty where it can."""
        try:
            if await engine_is_up_to_date(self._engine, self._needed):
                return ""
        except DATABASE_ERRORS as error:
            if not is_outage(error):
                raise
            return explain(error)
        return f"its schema is older than revision {self._needed}: run the migrations"

    async def look(self) -> None:
        """Look once, and log what has changed."""
        problem = await self.problem()
        if problem and not self._missed:
            logger.warning("PostgreSQL cannot be used, and requests get 503: %s", problem)
        elif self._missed and not problem:
            logger.warning("PostgreSQL can be used again")
        self._missed = bool(problem)
