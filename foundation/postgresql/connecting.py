"""Connecting to PostgreSQL: to the host that is a primary, with all that askmesh depends on set in the session."""

import secrets
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL

from foundation.postgresql.errors import READ_ONLY, UnsuitableSessionError
from foundation.postgresql.url import PostgresqlUrl

MARK: Final = "askmesh.connection"
"""A setting of each session that tells it from all others, and so finds out a pooler that hands sessions round."""

_PAUSE_SECONDS: Final = 1.0
_STANDBY: Final = "it is a standby, which takes no writes: the name in ASKMESH_DATABASE_URL has to lead to the primary"
_READ_ONLY: Final = (
    "default_transaction_read_only is on, for the server, the database or the role, and"
    " target_session_attrs=read-write in ASKMESH_DATABASE_URL wants another server"
)


class MarkedConnection(asyncpg.Connection):
    """A connection that knows the mark of its session."""

    mark = ""


class Connector:
    """Opens connections for a pool.

    The settings go by a statement and not with the start of the connection, where poolers such as PgBouncer refuse what
    they do not know; and one that is told to ignore them there would leave them without effect.
    """

    def __init__(
        self, url: PostgresqlUrl, application: str, settings: Mapping[str, str], command_seconds: float | None
    ) -> None:
        """``settings`` of each session; those of the URL give way to them. ``command_seconds``: None is no limit."""
        self._hosts: list[tuple[str, int | None] | None] = [*url.hosts] or [None]
        self._settings = {**url.settings, **settings}
        self._writable = url.writable
        name = f"{url.application} {application}".strip()
        self._arguments: dict[str, Any] = {
            **_tls(url),
            "user": url.user or None,
            "password": url.password or None,
            "database": url.database or None,
            "passfile": url.passfile or None,
            "service": url.service or None,
            "timeout": url.connect_seconds,
            "command_timeout": command_seconds,
            "connection_class": MarkedConnection,
            "server_settings": {"application_name": name} | ({"options": url.options} if url.options else {}),
        }
        self._refusal: UnsuitableSessionError | None = None
        self._refused_until = 0.0

    async def __call__(self) -> MarkedConnection:
        """A connection to the first host that has what is wanted; that of the last time goes first.

        Raises what asyncpg raises, and UnsuitableSessionError. Who was refused a primary is refused it again for a
        second without a look, because each look makes PostgreSQL start a process.
        """
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise UnsuitableSessionError(READ_ONLY, self._refusal.reason)
        refusals: list[Exception] = []
        for host in tuple(self._hosts):
            try:
                connection = await self._open(host)
            except (OSError, asyncpg.CannotConnectNowError, UnsuitableSessionError) as error:
                refusals.append(error)
            else:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return connection
        # A host that answers says more than one that does not.
        refusal = next((error for error in refusals if not isinstance(error, OSError)), refusals[-1])
        if isinstance(refusal, UnsuitableSessionError):
            self._refusal, self._refused_until = refusal, time.monotonic() + _PAUSE_SECONDS
        raise refusal

    async def _open(self, host: tuple[str, int | None] | None) -> MarkedConnection:
        place: dict[str, Any] = {} if host is None else {"host": host[0], "port": host[1]}
        connection: Any = await asyncpg.connect(**self._arguments, **place)
        try:
            await self._begin(connection)
        except BaseException:
            connection.terminate()
            raise
        assert isinstance(connection, MarkedConnection)
        return connection

    async def _begin(self, connection: MarkedConnection) -> None:
        """Set what the session needs, and see that the server is a primary, without preparing a statement."""
        connection.mark = secrets.token_hex(8)
        settings = {**self._settings, MARK: connection.mark}
        calls = ", ".join(f"set_config({_quoted(name)}, {_quoted(value)}, false)" for name, value in settings.items())
        unsuitable = "pg_is_in_recovery()"
        if self._writable:
            unsuitable += " OR current_setting('default_transaction_read_only') = 'on'"
        # The reply to several statements is the last one's: how many rows it has.
        found = await connection.execute(
            f"SET standard_conforming_strings = on; SELECT {calls}; SELECT WHERE {unsuitable}",
            timeout=self._arguments["timeout"],
        )
        if found != "SELECT 0":
            standby = await connection.execute("SELECT WHERE pg_is_in_recovery()") != "SELECT 0"
            raise UnsuitableSessionError(READ_ONLY, _STANDBY if standby else _READ_ONLY)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _tls(url: PostgresqlUrl) -> dict[str, Any]:
    if url.system_authorities:
        return {"ssl": ssl.create_default_context(), "direct_tls": url.tls.get("sslnegotiation") == "direct" or None}
    # In a DSN asyncpg reads libpq's names; as arguments it has none for most of them.
    return {"dsn": URL.create("postgresql", query=dict(url.tls)).render_as_string()} if url.tls else {}
