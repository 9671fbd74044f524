"""Migrations on databases as others make them: refused in one line where they cannot work, and taken where they can."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from embedded.ports import free_port
from foundation.postgresql.database import create_engine, fetch
from foundation.settings import DatabaseSettings
from schema.migrations import needed_revision
from schema.migrations.__main__ import migrate
from tests.debian_postgresql import PASSWORD, DebianPostgresql, debian_postgresql

pytestmark = pytest.mark.postgresql

LATIN1 = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' OWNER mesh"
SQL_ASCII = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' OWNER mesh"


@pytest.fixture(scope="module")
def server() -> Iterator[DebianPostgresql]:
    with debian_postgresql() as server:
        server.sql(
            LATIN1,
            SQL_ASCII,
            f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE ROLE lost LOGIN PASSWORD '{PASSWORD}'",
            "ALTER ROLE lost SET search_path = nowhere",
            f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'",
            "ALTER ROLE reader SET default_transaction_read_only = on",
        )
        yield server


def run_migrations(url: str, seconds: float = 30) -> tuple[int, str, float]:
    """Exit status, what was said, and how long it took."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASKMESH_")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "schema.migrations"],
        env=environment | {"ASKMESH_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    return done.returncode, done.stderr, time.monotonic() - began


@pytest.mark.parametrize(
    ("login", "database", "query", "said"),
    [
        ("mesh", "latin", "", ["encoding is LATIN1", "ENCODING 'UTF8'"]),
        ("mesh:wrong-wrong-wrong", "mesh", "", ["refuses the password", "28P01"]),
        ("nobody", "mesh", "", ["refuses the password"]),
        ("mesh", "nowhere", "", ["no database of the name", "3D000"]),
        ("mesh", "mesh", "sslmode=require", ["speaks no TLS", "sslmode"]),
        ("guest", "mesh", "", ["may make no tables in the schema public", "GRANT USAGE, CREATE ON SCHEMA"]),
        ("lost", "mesh", "", ["no schema of its search_path", "search_path"]),
        ("reader", "mesh", "", ["read-only"]),
    ],
)
def test_what_waiting_cannot_help_is_told_at_once_in_one_line(
    server: DebianPostgresql, login: str, database: str, query: str, said: list[str]
) -> None:
    user, _, password = login.partition(":")
    url = server.url(query, user=user, database=database)
    status, told, seconds = run_migrations(url.replace(PASSWORD, password) if password else url)
    assert status == 1
    assert told.count("\n") == 1, told
    for words in said:
        assert words in told
    assert PASSWORD not in told
    assert "wrong-wrong" not in told
    assert seconds < 20


def test_a_server_that_lets_nobody_in_so_is_told(server: DebianPostgresql) -> None:
    hba = server.sql("SHOW hba_file")
    was = server.sql(f"SELECT pg_read_file('{hba}')")
    server.sql(f"COPY (SELECT 'host postgres postgres all scram-sha-256') TO '{hba}'", "SELECT pg_reload_conf()")
    try:
        status, told, _ = run_migrations(server.url())
        assert status == 1
        assert "pg_hba.conf" in told
        assert "28000" in told
    finally:
        lines = ", ".join(f"('{line}')" for line in was.splitlines() if line and not line.startswith("#"))
        server.sql(f"COPY (VALUES {lines}) TO '{hba}'", "SELECT pg_reload_conf()")


async def test_sql_ascii_is_taken_as_it_stores_what_it_is_sent(server: DebianPostgresql) -> None:
    url = server.url(database="ascii")
    await migrate(url)
    engine = create_engine(DatabaseSettings(database_url=SecretStr(url)), "tests")
    assert (await fetch(engine, text("SELECT CAST(:text AS text) AS text"), {"text": "мир 😀"}))[0]["text"] == "мир 😀"
    await engine.dispose()


def test_a_server_that_comes_late_is_waited_for_and_the_reason_is_told_once() -> None:
    with debian_postgresql() as server:
        server.stop()
        command = [sys.executable, "-m", "schema.migrations"]
        environment = {"PATH": os.environ["PATH"], "ASKMESH_DATABASE_URL": server.url()}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            waits = process.stderr.readline()
            assert "waiting for PostgreSQL" in waits
            assert "nobody listens there" in waits
            server.start()
            rest = process.stderr.read()
        assert process.returncode == 0
        assert f"the database has revision {needed_revision()}" in rest
        assert "nobody listens" not in rest


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_isolation", "repeatable read"),
        ("statement_timeout", "1ms"),
        ("lock_timeout", "1ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
        ("search_path", "public, pg_catalog"),
        ("DateStyle", "German, DMY"),
        ("IntervalStyle", "iso_8601"),
        ("TimeZone", "Pacific/Chatham"),
        ("bytea_output", "escape"),
        ("client_encoding", "LATIN1"),
        ("standard_conforming_strings", "off"),
        ("enable_indexscan", "off"),
        ("enable_nestloop", "off"),
        ("row_security", "off"),
        ("extra_float_digits", "-15"),
    ],
)
async def test_defaults_of_a_role_change_nothing(server: DebianPostgresql, setting: str, value: str) -> None:
    written = value if setting == "search_path" else f"'{value}'"
    server.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public AUTHORIZATION mesh", database="mesh")
    server.sql(f"ALTER ROLE mesh SET {setting} = {written}")
    try:
        await migrate(server.url())
        engine = create_engine(DatabaseSettings(database_url=SecretStr(server.url())), "tests")
        shown = text("SELECT current_setting('transaction_isolation') AS isolation, 'мир' AS text, pg_sleep(0.05)")
        row = (await fetch(engine, shown, {}))[0]
        assert (row["isolation"], row["text"]) == ("read committed", "мир")
        async with engine.begin() as connection:
            assert (await connection.execute(shown)).one()[:2] == ("read committed", "мир")
        await engine.dispose()
    finally:
        server.sql(f"ALTER ROLE mesh RESET {setting}")


def test_nobody_there_is_no_traceback() -> None:
    environment = {"PATH": os.environ["PATH"], "ASKMESH_DATABASE_URL": f"postgresql://me@127.0.0.1:{free_port()}/mesh"}
    program = "import schema.migrations.__main__ as m, sys; m._PATIENCE_SECONDS = 1; sys.exit(m.main())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "nobody listens there" in done.stderr.splitlines()[-1]
