"""What PostgreSQL's absence raises, and what it does not."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from foundation.outages import Outage, describe

__all__ = ["DATABASE_ERRORS", "Outage", "describe", "is_defect"]

DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a statement can raise, through SQLAlchemy's pool or, while connecting, from asyncpg itself."""

# Classes of SQLSTATE that say that the statement is wrong, not the moment: data, integrity, syntax and access.
_DEFECTS = ("22", "23", "42")


def is_defect(error: BaseException) -> bool:
    """Whether the same statement would fail again on a healthy PostgreSQL."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "").startswith(_DEFECTS)
