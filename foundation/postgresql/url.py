"""PostgreSQL's URL, as people and hosted databases write it: a parameter is used, or left out, or refused.

The names are libpq's (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS), and those of
other drivers that are met in such URLs.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

CONNECT_SECONDS: Final = 5.0
"""How long one host may take to let a connection in, unless the URL has a connect_timeout."""

_SCHEME = re.compile(r"(postgres|postgresql)(\+[a-z0-9_]+)?", re.IGNORECASE)
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "sslnegotiation": ("postgres", "direct"),
    "channel_binding": ("disable", "prefer", "require"),
    "gsslib": ("gssapi", "sspi"),
}
_PERCENT: Final = "characters such as / ? # @ % in a user or password are written as %2F %3F %23 %40 %25"

_TO_ASYNCPG: Final = frozenset(
    ("krbsrvname", "gsslib", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
) | {"sslmode", *_FILES}
"""What asyncpg reads in a URL under libpq's name."""

_LEFT_OUT: Final[Mapping[str, str]] = {
    "client_encoding": "text goes as UTF-8, and the server converts it",
    "fallback_application_name": "each service has a name",
    "gssencmode": "connections are not encrypted by GSSAPI",
    "gssdelegation": "no credentials are handed on",
    "keepalives": "a statement without a reply ends after 10 s",
    "keepalives_idle": "as keepalives",
    "keepalives_interval": "as keepalives",
    "keepalives_count": "as keepalives",
    "tcp_user_timeout": "as keepalives; the server is told 10 s",
    "load_balance_hosts": "there is one primary",
    "sslcompression": "no version of TLS that is spoken compresses",
    "sslsni": "the name is sent",
    "sslcertmode": "a certificate is sent where sslcert names one",
    "min_protocol_version": "version 3.0 of the protocol is spoken",
    "max_protocol_version": "as min_protocol_version",
    "sslkeylogfile": "keys are logged nowhere",
    # Of other drivers and platforms.
    "pgbouncer": "how a pooler pools is found out",
    "prepared_statement_cache_size": "as pgbouncer",
    "statement_cache_size": "as pgbouncer",
    "prepareThreshold": "as pgbouncer",
    "command_timeout": "a statement may take 10 s",
    "socket_timeout": "as command_timeout",
    "pool_timeout": "a place in the pool is waited for 10 s",
    "uselibpqcompat": "sslmode is read as libpq does",
    "supa": "a note of the platform's",
    "workaround": "a note of the platform's",
}
"""What changes nothing, and why."""

_REFUSED: Final[Mapping[str, str]] = {
    "connection_limit": "set ASKMESH_DATABASE_POOL_SIZE instead",
    "pool_size": "set ASKMESH_DATABASE_POOL_SIZE instead",
    "max_overflow": "set ASKMESH_DATABASE_POOL_SIZE instead",
    "hostaddr": "write the address as the host",
    "replication": "leave it out: askmesh is no replica",
    "requirepeer": "askmesh cannot check whom the socket belongs to: leave it out, or take sslmode=verify-full",
    "requiressl": "write sslmode=require",
    "require_auth": "askmesh cannot choose how it proves itself: leave it out, or take sslmode=verify-full",
    "sslcrldir": "name one file by sslcrl",
    "sslaccept": "write sslmode=verify-full, or sslmode=require to accept any certificate",
    "sslidentity": "name the files by sslcert and sslkey",
    "scram_client_key": "write the password",
    "scram_server_key": "write the password",
}
"""What cannot be done, and what to do instead."""

_SAME_AS: Final[Mapping[str, str]] = {
    "database": "dbname",
    "currentSchema": "schema",
    "search_path": "schema",
    "ApplicationName": "application_name",
    "ssl": "sslmode",
}
"""Names of other drivers for what libpq calls otherwise."""

_SSL_AS_MODE: Final[Mapping[str, str]] = {
    "true": "require",
    "1": "require",
    "on": "require",
    "false": "disable",
    "0": "disable",
    "off": "disable",
}


class PostgresqlUrlError(ValueError):
    """The URL leads nowhere, or asks for what cannot be done. The message holds no part of it but parameters' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlUrl:
    """Where PostgreSQL is, and how to connect. Fields are empty where asyncpg's defaults hold, which are libpq's."""

    hosts: tuple[tuple[str, int | None], ...] = ()
    """Host and port of each server, or the folder of its Unix socket; tried in this order."""
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""
    passfile: str = ""
    service: str = ""
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    """libpq's parameters that asyncpg reads for itself."""
    system_authorities: bool = False
    """Verified by whom the system trusts, as by ``sslrootcert=system``."""
    writable: bool = False
    """Not only a primary is wanted, but one whose transactions may write by default."""
    connect_seconds: float = CONNECT_SECONDS
    application: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of each session."""
    options: str = ""
    """Command-line options of the session that are no settings, as ``endpoint=…`` of some platforms."""


def parse_postgresql_url(url: str) -> PostgresqlUrl:
    """Read a URL. Raises PostgresqlUrlError, whose message names the parameter and the remedy."""
    if url != url.strip("\"' \t\r\n"):
        raise PostgresqlUrlError("has quotes or white space around it: leave those out")
    scheme, separator, rest = url.partition("://")
    if scheme.lower().startswith("jdbc:"):
        raise PostgresqlUrlError("leave out jdbc: and write postgresql://user:password@host:5432/name")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise PostgresqlUrlError("must be a URL that begins with postgresql:// or postgres://")
    try:
        parts = urlsplit("postgresql://" + rest)
    except ValueError:
        raise PostgresqlUrlError(f"cannot be read: brackets belong around an IPv6 address, and {_PERCENT}") from None
    # Half of a password, if that has a / or ? or #, would be taken for the host.
    if "#" in rest or (parts.netloc and "@" not in parts.netloc and "@" in parts.path + parts.query):
        raise PostgresqlUrlError(f"cannot be read: {_PERCENT}")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    query = _query(parts.query)
    hosts = query.pop("host", "") or places
    tls, system_authorities = _tls(query)
    settings, options = _options(query.pop("options", ""))
    if schema := query.pop("schema", ""):
        settings["search_path"] = schema
    found = PostgresqlUrl(
        hosts=_hosts(hosts, query.pop("port", "")),
        user=unquote(user) or query.pop("user", ""),
        password=unquote(password) or query.pop("password", ""),
        database=unquote(parts.path.removeprefix("/")) or query.pop("dbname", ""),
        passfile=query.pop("passfile", ""),
        service=query.pop("service", ""),
        tls=tls,
        system_authorities=system_authorities,
        writable=_wants_writable(query.pop("target_session_attrs", "")),
        connect_seconds=_seconds(query.pop("connect_timeout", "")),
        application=query.pop("application_name", ""),
        settings=settings,
        options=options,
    )
    _refuse_unknown(query)
    return found


def _query(text: str) -> dict[str, str]:
    """The parameters that mean something. Of one that is there twice the last counts, but hosts add up."""
    found: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        given, _, value = (unquote(word) for word in part.partition("="))
        name = _SAME_AS.get(given, given)
        if name in _LEFT_OUT or not value:
            _refuse_demands(name, value)
        elif remedy := _REFUSED.get(name):
            raise PostgresqlUrlError(f"{name} in its query: {remedy}")
        elif name == "sslmode" and given == "ssl":
            found.setdefault(name, _SSL_AS_MODE.get(value.lower(), value))
        elif name in ("host", "port") and name in found:
            found[name] += f",{value}"
        else:
            found[name] = value
    return found


def _refuse_demands(name: str, value: str) -> None:
    """A parameter that usually changes nothing can ask for safety that there would not be."""
    if name == "gssencmode" and value == "require":
        raise PostgresqlUrlError("gssencmode=require in its query: askmesh cannot encrypt by GSSAPI, take sslmode")
    if name == "gssdelegation" and value == "1":
        raise PostgresqlUrlError("gssdelegation=1 in its query: askmesh hands no credentials on, leave it out")


def _hosts(hosts: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    if not hosts:
        return (("localhost", _port(ports)),) if ports else ()
    places = hosts.split(",")
    listed = ports.split(",") if ports else []
    if len(listed) not in (0, 1, len(places)):
        raise PostgresqlUrlError("port in its query: name one port, or as many as hosts")
    return tuple(
        _place(place, listed[number if len(listed) > 1 else 0] if listed else "") for number, place in enumerate(places)
    )


def _place(place: str, default_port: str) -> tuple[str, int | None]:
    if place.startswith(("/", "%2F", "%2f", "@")):
        return unquote(place), _port(default_port) if default_port else None
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise PostgresqlUrlError("brackets belong around an IPv6 address, and a port after them")
        port = port[1:]
    else:
        host, _, port = place.partition(":")
        if ":" in port:
            raise PostgresqlUrlError(f"brackets belong around an IPv6 address, as in [::1]:5432, and {_PERCENT}")
    if not host:
        raise PostgresqlUrlError("one of its hosts has no name")
    port = port or default_port
    return unquote(host), _port(port) if port else None


def _port(text: str) -> int:
    # What stands there may be half of a password, and is not shown.
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise PostgresqlUrlError(f"its port must be a number from 1 to 65535 ({_PERCENT})")
    return int(text)


def _tls(query: dict[str, str]) -> tuple[dict[str, str], bool]:
    """What asyncpg reads, and whether the system's authorities verify the server."""
    for name, allowed in _ALLOWED.items():
        if query.get(name, allowed[0]) not in allowed:
            raise PostgresqlUrlError(f"{name} in its query: must be one of {', '.join(allowed)}")
    system = query.get("sslrootcert") == "system"
    if system:
        if query.setdefault("sslmode", "verify-full") != "verify-full" or "sslcrl" in query:
            raise PostgresqlUrlError("sslrootcert=system in its query: takes sslmode=verify-full and no sslcrl")
        del query["sslrootcert"]
    mode = query.get("sslmode", "")
    if query.pop("channel_binding", "") == "require" and mode != "verify-full":
        raise PostgresqlUrlError(
            "channel_binding=require in its query: askmesh cannot bind to the channel; take"
            " sslmode=verify-full&sslrootcert=system (or the file of the server's authority) instead, by which no other"
            " server can pass for this one either"
        )
    if mode in ("verify-ca", "verify-full") and not system and not _authority_is_known(query):
        raise PostgresqlUrlError(
            f"sslmode={mode} in its query: name the authority's file by sslrootcert, or write sslrootcert=system"
        )
    if query.get("sslnegotiation") == "direct" and mode not in ("require", "verify-ca", "verify-full"):
        raise PostgresqlUrlError("sslnegotiation=direct in its query: takes sslmode=require, verify-ca or verify-full")
    for name in _FILES:
        if (file := query.get(name)) and not Path(file).is_file():
            raise PostgresqlUrlError(f"{name} in its query: there is no such file")
    return {name: query.pop(name) for name in tuple(query) if name in _TO_ASYNCPG}, system


def _authority_is_known(query: Mapping[str, str]) -> bool:
    usual = Path("~/.postgresql/root.crt").expanduser()
    return bool(query.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or usual.is_file())


def _wants_writable(value: str) -> bool:
    if value in ("standby", "read-only", "prefer-standby"):
        raise PostgresqlUrlError(
            f"target_session_attrs={value} in its query: askmesh writes, take primary or read-write"
        )
    if value not in ("", "any", "primary", "read-write"):
        raise PostgresqlUrlError("target_session_attrs in its query: must be any, primary or read-write")
    return value == "read-write"


def _seconds(text: str) -> float:
    if not text:
        return CONNECT_SECONDS
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise PostgresqlUrlError("connect_timeout in its query: must be a whole number of seconds")
    # As with libpq: 0 and less are no limit, which would hold up all who wait for a connection; the least is 2.
    return max(float(text), 2.0) if int(text) > 0 else CONNECT_SECONDS


def _refuse_unknown(query: Mapping[str, str]) -> None:
    for name in query:
        if not _PARAMETER.fullmatch(name):
            raise PostgresqlUrlError(f"its query cannot be read: {_PERCENT}")
        raise PostgresqlUrlError(
            f"{name} in its query: askmesh knows no such parameter; leave it out, or write a setting of PostgreSQL's as"
            " options=-c%20name%3Dvalue"
        )


def _options(text: str) -> tuple[dict[str, str], str]:
    """``-c name=value`` and ``--name=value`` as settings; all of it as it stands where there is anything else."""
    try:
        words = shlex.split(text)
    except ValueError:
        raise PostgresqlUrlError("options in its query: a quote is not closed") from None
    settings: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            return {}, text
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", name):
            return {}, text
        settings[name.replace("-", "_")] = value
    return settings, ""
