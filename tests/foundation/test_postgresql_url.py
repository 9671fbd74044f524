from pathlib import Path

import pytest

from foundation.postgresql.url import PostgresqlUrl, PostgresqlUrlError, parse_postgresql_url
from foundation.settings import DatabaseSettings, SettingsError, load

BASE = "postgresql://me:dozen-letters@db.example:5433/mesh"
FOUND = PostgresqlUrl(hosts=(("db.example", 5433),), user="me", password="dozen-letters", database="mesh")


def differences(url: str) -> dict[str, object]:
    """The fields in which what is found differs from ``FOUND``."""
    found = parse_postgresql_url(url)
    names = PostgresqlUrl.__dataclass_fields__
    return {name: getattr(found, name) for name in names if getattr(found, name) != getattr(FOUND, name)}


@pytest.mark.parametrize(
    "scheme",
    [
        *("postgresql", "postgres", "POSTGRESQL"),
        *("postgresql+asyncpg", "postgresql+psycopg2", "postgresql+psycopg", "postgres+pg8000"),
    ],
)
def test_every_way_to_say_postgresql_is_one(scheme: str) -> None:
    assert parse_postgresql_url(BASE.replace("postgresql", scheme, 1)) == FOUND


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:p%40ss%2Fw%3Fo%23r%25d@h/d", ("me", "p@ss/w?o#r%d", (("h", None),), "d")),
        ("postgresql://me@azure:p@ss+w@h:1/d", ("me@azure", "p@ss+w", (("h", 1),), "d")),
        ("postgresql://me%40azure@[::1]:5433/d", ("me@azure", "", (("::1", 5433),), "d")),
        ("postgresql://[fe80::1%25eth0]/d", ("", "", (("fe80::1%eth0", None),), "d")),
        ("postgresql://me:x@a:1,b:2,[::1]/d", ("me", "x", (("a", 1), ("b", 2), ("::1", None)), "d")),
        ("postgresql://me:x@a,b/d?port=7", ("me", "x", (("a", 7), ("b", 7)), "d")),
        ("postgresql:///d?host=a,b&port=1,2&user=me&password=x+y", ("me", "x+y", (("a", 1), ("b", 2)), "d")),
        ("postgresql:///d?host=a&host=b", ("", "", (("a", None), ("b", None)), "d")),
        ("postgresql://me@/d?host=/run/sockets", ("me", "", (("/run/sockets", None),), "d")),
        ("postgresql://me@%2Frun%2Fsockets/d", ("me", "", (("/run/sockets", None),), "d")),
        ("postgresql://me:x@h", ("me", "x", (("h", None),), "")),
        ("postgresql://me:x@h/?dbname=d", ("me", "x", (("h", None),), "d")),
        ("postgresql://me:x@h/a%20name", ("me", "x", (("h", None),), "a name")),
        ("postgresql://", ("", "", (), "")),
    ],
)
def test_who_where_and_what(url: str, expected: tuple[object, ...]) -> None:
    found = parse_postgresql_url(url)
    assert (found.user, found.password, found.hosts, found.database) == expected


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("sslmode=require", {"tls": {"sslmode": "require"}}),
        ("ssl=true", {"tls": {"sslmode": "require"}}),
        ("ssl=verify-full&sslrootcert=system", {"tls": {"sslmode": "verify-full"}, "system_authorities": True}),
        ("sslrootcert=system", {"tls": {"sslmode": "verify-full"}, "system_authorities": True}),
        (
            "sslmode=verify-full&sslrootcert=system&channel_binding=require",
            {"tls": {"sslmode": "verify-full"}, "system_authorities": True},
        ),
        ("sslmode=require&channel_binding=prefer", {"tls": {"sslmode": "require"}}),
        ("ssl_min_protocol_version=TLSv1.3", {"tls": {"ssl_min_protocol_version": "TLSv1.3"}}),
        ("sslmode=require&sslnegotiation=direct", {"tls": {"sslmode": "require", "sslnegotiation": "direct"}}),
        ("connect_timeout=30", {"connect_seconds": 30.0}),
        ("connect_timeout=1", {"connect_seconds": 2.0}),
        ("connect_timeout=0", {}),
        ("application_name=mesh", {"application": "mesh"}),
        ("target_session_attrs=any", {}),
        ("target_session_attrs=primary", {}),
        ("target_session_attrs=read-write", {"writable": True}),
        ("passfile=/home/me/.pgpass&service=mesh", {"passfile": "/home/me/.pgpass", "service": "mesh"}),
        ("options=-c%20search_path%3Dask", {"settings": {"search_path": "ask"}}),
        ("options=-csearch_path=a,b%20--lock-timeout=5s", {"settings": {"search_path": "a,b", "lock_timeout": "5s"}}),
        ("options=endpoint%3Dep-cool-1", {"options": "endpoint=ep-cool-1"}),
        ("options=project%3Dx%20-c%20a.b%3D1", {"options": "project=x -c a.b=1"}),
        ("schema=ask", {"settings": {"search_path": "ask"}}),
        ("currentSchema=ask", {"settings": {"search_path": "ask"}}),
    ],
)
def test_parameters_that_are_used(query: str, found: dict[str, object]) -> None:
    assert differences(f"{BASE}?{query}") == found


@pytest.mark.parametrize(
    "query",
    [
        "client_encoding=utf8",
        "fallback_application_name=x",
        *("gssencmode=disable", "gssencmode=prefer", "gssdelegation=0"),
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5&tcp_user_timeout=10000",
        "load_balance_hosts=disable",
        *("sslsni=1", "sslcompression=0", "sslcertmode=allow", "min_protocol_version=3.0"),
        *("pgbouncer=true", "statement_cache_size=0", "prepared_statement_cache_size=0", "pool_timeout=30"),
        *("command_timeout=60", "supa=base-pooler.x", "workaround=supabase-pooler.vercel", "uselibpqcompat=true"),
        "connect_timeout=",
        "sslmode=",
    ],
)
def test_parameters_that_change_nothing(query: str) -> None:
    assert differences(f"{BASE}?{query}") == {}


@pytest.mark.parametrize(
    ("url", "name", "remedy"),
    [
        ("host=db dbname=mesh", "URL", "postgresql://"),
        ("mysql://me:x@h/d", "URL", "postgresql://"),
        ("jdbc:postgresql://h/d", "jdbc:", "postgresql://"),
        (f'"{BASE}"', "quotes", "leave"),
        (f"{BASE}\n", "white space", "leave"),
        ("postgresql://me:pa/sesame@h/d", "cannot be read", "%2F"),
        ("postgresql://me:12/sesame@h/d", "cannot be read", "%2F"),
        ("postgresql://me:12?sesame@h/d", "cannot be read", "%3F"),
        ("postgresql://me:12#sesame@h/d", "cannot be read", "%23"),
        ("postgresql://me:sesame@h:54a/d", "port", "number from 1"),
        ("postgresql://me:sesame@h:0/d", "port", "number from 1"),
        ("postgresql://me:sesame@h:65536/d", "port", "number from 1"),
        ("postgresql://me:sesame@::1/d", "IPv6", "brackets"),
        ("postgresql://me:sesame@[::1/d", "IPv6", "brackets"),
        ("postgresql://me:sesame@a,,b/d", "hosts", "name"),
        ("postgresql://me:sesame@a,b/d?port=1,2,3", "port", "as many"),
        (f"{BASE}?sslmode=no-verify", "sslmode", "verify-full"),
        (f"{BASE}?ssl=yes", "sslmode", "verify-full"),
        (f"{BASE}?sslmode=require&channel_binding=require", "channel_binding", "sslmode=verify-full"),
        (f"{BASE}?sslrootcert=/nowhere/root.crt", "sslrootcert", "no such file"),
        (f"{BASE}?sslmode=verify-full", "sslmode", "sslrootcert=system"),
        (f"{BASE}?sslmode=require&sslrootcert=system", "sslrootcert", "verify-full"),
        (f"{BASE}?sslnegotiation=direct", "sslnegotiation", "sslmode=require"),
        (f"{BASE}?ssl_min_protocol_version=1.2", "ssl_min_protocol_version", "TLSv1.2"),
        (f"{BASE}?gssencmode=require", "gssencmode", "sslmode"),
        (f"{BASE}?require_auth=scram-sha-256", "require_auth", "leave it out"),
        (f"{BASE}?sslcrldir=/x", "sslcrldir", "sslcrl"),
        (f"{BASE}?requiressl=1", "requiressl", "sslmode=require"),
        (f"{BASE}?hostaddr=10.0.0.1", "hostaddr", "host"),
        (f"{BASE}?target_session_attrs=standby", "target_session_attrs", "primary"),
        (f"{BASE}?target_session_attrs=sesame", "target_session_attrs", "read-write"),
        (f"{BASE}?connect_timeout=10s", "connect_timeout", "whole number"),
        (f"{BASE}?connection_limit=5", "connection_limit", "ASKMESH_DATABASE_POOL_SIZE"),
        (f"{BASE}?sslaccept=strict", "sslaccept", "verify-full"),
        (f"{BASE}?statement_timeout=5s", "statement_timeout", "options=-c%20name%3Dvalue"),
        (f"{BASE}?options=-c%20a%3D'b", "options", "quote"),
        (f"{BASE}?se%20same=1", "query", "%3F"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, name: str, remedy: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where nobody has left certificates
    monkeypatch.setenv("ASKMESH_DATABASE_URL", url)
    with pytest.raises(SettingsError) as refused:
        load(DatabaseSettings)
    said = str(refused.value)
    assert said.startswith("ASKMESH_DATABASE_URL: ")
    assert name in said
    assert remedy in said
    assert "\n" not in said
    assert "sesame" not in said
    assert "dozen-letters" not in said


def test_a_file_that_is_there_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "root.crt").touch()
    found = parse_postgresql_url(f"{BASE}?sslmode=verify-ca&sslrootcert={tmp_path}/root.crt")
    assert found.tls == {"sslmode": "verify-ca", "sslrootcert": f"{tmp_path}/root.crt"}


def test_a_password_is_not_shown() -> None:
    assert "dozen-letters" not in repr(parse_postgresql_url(BASE))
    with pytest.raises(PostgresqlUrlError):
        parse_postgresql_url("dozen-letters")
