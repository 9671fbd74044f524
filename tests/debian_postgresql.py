"""Debian's PostgreSQL on TCP, with roles, databases, standbys and PgBouncer, for tests of what others' servers do."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedded.ports import free_port
from tests.tls_servers import debians_postgresql

PASSWORD = "a-dozen-letters"
_SECONDS = 60.0


def _account() -> pwd.struct_passwd:
    """PostgreSQL and PgBouncer refuse to run as root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = _account()
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd="/", env=os.environ | (environment or {}), **identity
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class DebianPostgresql:
    """A server in a folder of its own. The role and database ``mesh`` are there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = debians_postgresql()
        self.port = free_port()

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def make(self, *, superuser: str = "postgres") -> None:
        """With the encoding UTF8, and every login by password over TCP."""
        (self._folder / "password").write_text(PASSWORD)
        _run(
            *(str(self._programs / "initdb"), "-D", f"{self._folder}/data", "-U", superuser, "-E", "UTF8", "--no-sync"),
            *("--no-locale", "-A", "scram-sha-256", f"--pwfile={self._folder}/password"),
        )

    def copy(self, primary: "DebianPostgresql") -> None:
        """Make this one a standby."""
        url = primary.url(user="postgres", database="postgres")
        _run(str(self._programs / "pg_basebackup"), "-D", f"{self._folder}/data", "-d", url, "-R", "-c", "fast")

    def start(self) -> None:
        options = (
            f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
            " -c max_wal_senders=3 -c log_connections=on"
        )
        self._control("-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def promote(self) -> None:
        self._control("promote")

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements as superuser, each by itself; what they return."""
        words = [word for statement in statements for word in ("-c", statement)]
        url = self.url(user="postgres", database=database)
        return _run(str(self._programs / "psql"), url, "-AtqX", "-v", "ON_ERROR_STOP=1", *words).strip()

    def url(self, query: str = "", *, user: str = "mesh", database: str = "mesh", port: int | None = None) -> str:
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port or self.port}/{database}{query and '?'}{query}"

    def _control(self, *words: str) -> None:
        _run(str(self._programs / "pg_ctl"), "-D", f"{self._folder}/data", "-w", *words)


@contextmanager
def _folder() -> Iterator[Path]:
    # A short path, because of the Unix sockets in it, that the server's account may enter.
    with tempfile.TemporaryDirectory(prefix="askmesh-pg-", ignore_cleanup_errors=True) as name:
        os.chown(name, _account().pw_uid, _account().pw_gid)
        yield Path(name)


@contextmanager
def debian_postgresql() -> Iterator[DebianPostgresql]:
    """A running server. Skips the test, and says why, where none is installed."""
    with _folder() as folder:
        server = DebianPostgresql(folder)
        server.make()
        server.start()
        try:
            server.sql(f"CREATE ROLE mesh LOGIN PASSWORD '{PASSWORD}'", "CREATE DATABASE mesh OWNER mesh")
            yield server
        finally:
            server.stop()


@contextmanager
def standby_of(primary: DebianPostgresql) -> Iterator[DebianPostgresql]:
    """A running standby, which ``promote`` makes a primary."""
    with _folder() as folder:
        server = DebianPostgresql(folder)
        primary.sql("ALTER SYSTEM SET wal_level = replica")
        server.copy(primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pgbouncer(server: DebianPostgresql, mode: str, **settings: str) -> Iterator[int]:
    """The port of PgBouncer with Debian's defaults, but for ``pool_mode`` and ``settings``."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed; on Debian: apt-get install pgbouncer")
    port = free_port()
    with _folder() as folder:
        (folder / "users").write_text(f'"mesh" "{PASSWORD}"\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "auth_type": "scram-sha-256",
            "auth_file": f"{folder}/users",
            "pool_mode": mode,
            "unix_socket_dir": "",
            "default_pool_size": "20",
            "logfile": f"{folder}/log",
        } | settings
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        place = f"host=127.0.0.1 port={server.port}"
        (folder / "ini").write_text(f"[databases]\nmesh = {place}\n[pgbouncer]\n{lines}\n")
        for file in (folder / "users", folder / "ini"):
            os.chown(file, _account().pw_uid, _account().pw_gid)
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            identity = {"user": _account().pw_uid, "group": _account().pw_gid, "extra_groups": []}
        process = subprocess.Popen(
            [program, "-q", f"{folder}/ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **identity
        )
        try:
            _wait(lambda: _listens(port))
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
