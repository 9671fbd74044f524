"""What PostgreSQL's errors mean: an outage, which passes, or a defect, which does not; the one place that decides."""

import socket
import ssl
from typing import Final

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    EmulatedDBAPIException,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

DATABASE_ERRORS: Final = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a statement can raise, through SQLAlchemy's pool or, while connecting, from asyncpg itself."""

READ_ONLY: Final = "25006"
UNDEFINED_TABLE: Final = "42P01"
HANDED_ROUND: Final = "26000"
"""A session in which what was prepared, or set, is gone, or is somebody else's."""

_WRONG_DATA: Final = ("22", "23")
# Classes and codes of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) by which the statement
# is wrong, and not the moment: cardinality, data, integrity, a transaction that failed before, syntax, limits of a
# statement, and what a function raises.
_DEFECTS: Final = ("20", "21", "22", "23", "25P01", "25P02", "42", "44", "54", "P0")
# Of these, what passes: rights, a statement that a pooler prepared elsewhere, and a schema that is still to be made.
_NO_DEFECTS: Final = ("42501", UNDEFINED_TABLE, "42P05", "42703", "42704")

# The server, or the process of it that the connection leads to, will not do what others do: it is read-only (a standby
# after a failover), out of memory, shutting down or starting, has lost a prepared statement (a pooler that switches
# servers), or its state does not allow what was asked (recovery).
_WRONG_SERVER: Final = ("08", READ_ONLY, "26000", "42P05", "0A000", "53200", "55000", "57P", "58", "XX")

_NEVER_PASSES: Final = ("26000", "28", "3D000", "3F000", "42501", "42704", "42P05")
"""While nobody changes the server, or the URL."""

_REASONS: Final = (
    (READ_ONLY, "it is read-only: a standby, or default_transaction_read_only is on, as where a disk is full"),
    ("26000", "a pooler hands its sessions round: let it pool by session, or connect to PostgreSQL itself"),
    ("42P05", "a pooler hands its sessions round: let it pool by session, or connect to PostgreSQL itself"),
    ("28P01", "it refuses the password in ASKMESH_DATABASE_URL, or has no such user: set the right one there"),
    (
        "28",
        "it lets nobody in so: check user, database and sslmode in ASKMESH_DATABASE_URL, and the server's pg_hba.conf",
    ),
    ("3D000", "it has no database of the name in ASKMESH_DATABASE_URL: create it, or correct the name"),
    ("3F000", "no schema of search_path is there: create it, or correct search_path"),
    (UNDEFINED_TABLE, "the schema is not there yet: migrations make it"),
    ("42501", "the user of ASKMESH_DATABASE_URL lacks rights on the tables or their schema: grant them"),
    ("42704", "it lacks a setting that askmesh needs: PostgreSQL 12 or later is needed"),
    ("53300", "it has no connection left: raise max_connections, or lower ASKMESH_DATABASE_POOL_SIZE"),
    ("53100", "its disk is full"),
    ("53200", "it is out of memory"),
    ("57P03", "it is starting, stopping or recovering"),
    ("57P", "it is shutting down"),
    ("57014", "a statement took too long"),
    ("55P03", "a lock was not to be had in time"),
    ("40", "the statement lost against another one"),
)
# What a server or pooler says while it lets nobody in holds names, and no rows. The rest may quote what was asked.
_MESSAGE_IS_SAFE: Final = ("08P01", "28", "3D000", "42704", "53300", "57P03")


class UnsuitableSessionError(SQLAlchemyError):
    """A session that askmesh cannot work in. ``reason``: as ``explain`` says it."""

    def __init__(self, sqlstate: str, reason: str = "") -> None:
        self.reason = reason or _reason(sqlstate)
        self.sqlstate = sqlstate
        super().__init__(self.reason)


def cause(error: BaseException) -> BaseException:
    """What the driver raised, without SQLAlchemy's wrapping."""
    found = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return found.orig if isinstance(found, EmulatedDBAPIException) and found.orig else found


def sqlstate(error: BaseException) -> str:
    """The server's code for the error; empty where it is not the server's."""
    return str(getattr(cause(error), "sqlstate", None) or "")


def is_outage(error: BaseException) -> bool:
    """Whether PostgreSQL, or the schema in it, is absent for now: the same statement may succeed later."""
    found = cause(error)
    if isinstance(error, PoolTimeoutError | DisconnectionError | PendingRollbackError) or isinstance(found, OSError):
        return True  # asyncpg raises plain OSError where it cannot connect, and TimeoutError where a statement hangs
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    code = sqlstate(error)
    if code:
        return code in _NO_DEFECTS or not code.startswith(_DEFECTS)
    # Without a code it is the driver's: a connection that broke off, or a value or setting that it cannot take.
    if isinstance(found, AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError):
        return True  # the schema has changed; the statement is prepared anew
    if isinstance(found, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return isinstance(found, asyncpg.ClientConfigurationError) or not isinstance(found, ValueError)
    return False


def is_wrong_data(error: BaseException) -> bool:
    """Whether a defect lies in what was to be written, and not in the schema or in rights."""
    return sqlstate(error).startswith(_WRONG_DATA)


def leads_astray(error: BaseException) -> bool:
    """Whether another connection may do what this one refuses, as after a failover that left connections open."""
    return sqlstate(error).startswith(_WRONG_SERVER)


def never_passes(error: BaseException) -> bool:
    """Whether waiting is in vain: the server is there, and refuses who connects or what for."""
    found = cause(error)
    return sqlstate(error).startswith(_NEVER_PASSES) or isinstance(found, ssl.SSLError) or _lacks_tls(found)


def explain(error: BaseException) -> str:
    """Why PostgreSQL does not do its work, with the remedy, in one line; never what was asked or answered."""
    if isinstance(error, UnsuitableSessionError):
        return error.reason
    code, found = sqlstate(error), cause(error)
    reason = _reason(code) if code else _unreached(found)
    said = " ".join(str(found).split()) if code.startswith(_MESSAGE_IS_SAFE) else ""
    details = ", ".join(filter(None, (describe(error), said[:200] and f'"{said[:200]}"')))
    return f"{reason} ({details})" if reason else details


def _reason(code: str) -> str:
    return next((reason for start, reason in _REASONS if code.startswith(start)), "")


def describe(error: BaseException) -> str:
    """The error's type and SQLSTATE, without its message."""
    found, code = cause(error), sqlstate(error)
    return f"{type(found).__name__} {code}" if code else type(found).__name__


def _lacks_tls(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)  # asyncpg's own words


def _unreached(error: BaseException) -> str:
    """Why nobody answered at all."""
    match error:
        case ConnectionRefusedError():
            return "nobody listens there"
        case socket.gaierror():
            return "the name of its host is not known"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason}"
        case TimeoutError() | PoolTimeoutError():
            return "no answer came in time"
        case ConnectionError() if _lacks_tls(error):
            return "it speaks no TLS, which sslmode in ASKMESH_DATABASE_URL asks for"
        case OSError() if error.strerror:
            return error.strerror + (f": {error.filename}" if error.filename else "")
    return ""
