import socket
import ssl

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from foundation.postgresql.errors import (
    UnsuitableSessionError,
    explain,
    is_outage,
    leads_astray,
    never_passes,
)


def wrapped(error: Exception) -> DBAPIError:
    """As SQLAlchemy raises what asyncpg has raised."""
    return DBAPIError("SELECT", {}, AsyncAdapt_asyncpg_dbapi.Error(str(error), error))  # type: ignore[no-untyped-call]


def raised(code: str, message: str = "secret") -> asyncpg.PostgresError:
    """As asyncpg raises an error of the server."""
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": code, "M": message, "S": "ERROR"})
    return error


@pytest.mark.parametrize(
    "code",
    [
        *("08000", "08003", "08006", "08P01", "0A000", "25006", "25P03", "26000", "28000", "28P01", "3D000", "3F000"),
        *("40001", "40P01", "42501", "42P01", "42P05", "42703", "42704", "53100", "53200", "53300", "55000", "55P03"),
        *("57014", "57P01", "57P02", "57P03", "57P05", "58030", "XX000", "XX001"),
    ],
)
def test_these_pass(code: str) -> None:
    for error in (raised(code), wrapped(raised(code))):
        assert is_outage(error)
        assert is_outage(error)
        assert code in explain(error)


@pytest.mark.parametrize(
    "code", ["21000", "22001", "22003", "22021", "23505", "23514", "25P02", "42601", "42804", "42883", "54000", "P0001"]
)
def test_these_are_defects(code: str) -> None:
    for error in (raised(code), wrapped(raised(code))):
        assert not is_outage(error)
        assert not leads_astray(error)
        assert "secret" not in explain(error)


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.InternalClientError("got result for unknown protocol state"), True),
        (asyncpg.ClientConfigurationError("no root certificate"), True),
        (asyncpg.DataError("invalid input for query argument $1: value out of int32 range"), False),
        (PoolTimeoutError("QueuePool limit"), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OperationalError("COMMIT", {}, ConnectionResetError()), True),
        (DBAPIError("SELECT", {}, Exception(), connection_invalidated=True), True),
        (AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError("plan is invalid"), True),  # type: ignore[no-untyped-call]
        (ArgumentError("no such option"), False),
        (KeyError("x"), False),
        (UnsuitableSessionError("25006"), True),
    ],
)
def test_what_has_no_code_of_the_servers(error: Exception, outage: bool) -> None:
    assert is_outage(error) == outage
    if isinstance(error, asyncpg.InterfaceError):
        assert is_outage(wrapped(error)) == outage


@pytest.mark.parametrize(
    ("code", "astray"),
    [
        *(("25006", True), ("57P01", True), ("57P03", True), ("55000", True), ("53200", True), ("26000", True)),
        *(("57014", False), ("40001", False), ("55P03", False), ("53100", False), ("42P01", False), ("28P01", False)),
    ],
)
def test_for_which_a_connection_is_given_up(code: str, astray: bool) -> None:
    assert leads_astray(wrapped(raised(code))) == astray


@pytest.mark.parametrize(
    ("error", "in_vain"),
    [
        *((raised("28P01"), True), (raised("28000"), True), (raised("3D000"), True), (raised("42501"), True)),
        *((ssl.SSLCertVerificationError(), True), (ConnectionError("rejected SSL upgrade"), True)),
        *((raised("57P03"), False), (raised("53300"), False), (ConnectionRefusedError(), False), (OSError(), False)),
    ],
)
def test_where_waiting_is_in_vain(error: Exception, in_vain: bool) -> None:
    assert never_passes(error) == in_vain


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens there"),
        (socket.gaierror(-2, "Name or service not known"), "name of its host is not known"),
        (TimeoutError(), "no answer came in time"),
        (FileNotFoundError(2, "No such file or directory", "/run/x"), "No such file or directory: /run/x"),
        (ConnectionError("PostgreSQL server at h rejected SSL upgrade"), "speaks no TLS"),
        (raised("08P01", "unsupported startup parameter: x\nmore"), '"unsupported startup parameter: x more"'),
        (raised("28000", 'no pg_hba.conf entry for host "h"'), "pg_hba.conf"),
        (raised("23505", "Key (text)=(what was asked)"), "23505"),
        (raised("57014", "canceling statement"), "took too long"),
        (UnsuitableSessionError("26000"), "pool by session"),
    ],
)
def test_the_reason_is_one_line(error: Exception, words: str) -> None:
    said = explain(error)
    assert words in said
    assert "\n" not in said
    assert "what was asked" not in said
