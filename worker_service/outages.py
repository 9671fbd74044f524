"""Servers that come and go: one log line when one is gone, one when it is back, however many calls notice."""

import logging

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a statement can raise, through SQLAlchemy's pool or, while connecting, from asyncpg itself."""

# Classes of SQLSTATE that say that the statement is wrong, not the moment: data, integrity, syntax and access.
_DEFECTS = ("22", "23", "42")


def is_defect(error: BaseException) -> bool:
    """Whether the same statement would fail again on a healthy PostgreSQL."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "").startswith(_DEFECTS)


class Outage:
    """Whether one server answers, as those who call it have seen it last.

    The log lines do not hold an error's message, because PostgreSQL's can quote rows.
    """

    def __init__(self, server: str, consequence: str) -> None:
        self._server = server
        self._consequence = consequence
        self.lasts = False

    def begins(self, error: BaseException) -> None:
        """A call failed."""
        if not self.lasts:
            self.lasts = True
            logger.warning("%s does not answer (%s): %s", self._server, describe(error), self._consequence)

    def ends(self) -> None:
        """A call succeeded."""
        if self.lasts:
            self.lasts = False
            logger.warning("%s answers again", self._server)


def describe(error: BaseException) -> str:
    """The error's type and SQLSTATE, without its message."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    sqlstate = getattr(cause, "sqlstate", None)
    return f"{type(cause).__name__} {sqlstate}" if sqlstate else type(cause).__name__
