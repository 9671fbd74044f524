"""What PostgreSQL's absence raises, and what it does not."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from foundation.outages import Outage, describe

__all__ = ["DATABASE_ERRORS", "Outage", "describe", "is_defect"]

DATABASE_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a statement can raise, through SQLAlchemy's pool or, while connecting, from asyncpg itself."""

# Classes of SQLSTATE that say that the statement is wrong, not the moment: data, integrity, syntax and access.
_WRONG_DATA = ("22", "23")
_DEFECTS = (*_WRONG_DATA, "42")


def is_defect(error: BaseException) -> bool:
    """Whether the same statement would fail again on a healthy PostgreSQL."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "").startswith(_DEFECTS)


def is_wrong_data(error: BaseException) -> bool:
    """Whether a defect lies in what was to be written, and not in the schema or in rights."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "").startswith(_WRONG_DATA)
