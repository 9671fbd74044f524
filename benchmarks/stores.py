"""PostgreSQL, RabbitMQ and Redis from Debian's packages, on free ports and data of their own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from embedded.ports import HOST, free_port
from embedded.postgresql import DATABASE, SUPERUSER
from embedded.postgresql import SETTINGS as EMBEDDED_SETTINGS
from embedded.processes import Program, Server
from tests.rabbitmq import RabbitMQ

# Debian's package makes this user. PostgreSQL refuses to run as root.
_SYSTEM_USER = "postgres"
_BINARIES = "lib/postgresql/*/bin"


class MissingError(Exception):
    """A package is not installed. The message names it."""


@contextmanager
def debian_stores(folder: Path) -> Iterator[dict[str, str]]:
    """The settings that make a mesh use them."""
    for program in ("redis-server", "rabbitmq-server"):
        if not shutil.which(program):
            raise MissingError(f"{program} is missing: apt-get install redis-server rabbitmq-server postgresql")
    with DebianPostgreSQL(folder / "postgresql") as database, DebianRedis(folder) as redis, RabbitMQ() as broker:
        yield {
            "ASKMESH_DATABASE_URL": database.url,
            "ASKMESH_REDIS_URL": redis.url,
            "ASKMESH_BROKER_URL": broker.url,
        }


class DebianPostgreSQL(Server):
    """A server with the empty database ``askmesh``, in ``folder``, which any user must be able to reach.

    It has as much memory as the embedded one. ``settings`` go before its own, as ``{"fsync": "off"}``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        found = sorted(Path("/usr").glob(_BINARIES), key=lambda path: float(path.parent.name))
        if not found:
            raise MissingError("PostgreSQL is missing: apt-get install postgresql")
        self._binaries = found[-1]
        self._folder = folder
        self._settings = EMBEDDED_SETTINGS | {"listen_addresses": HOST} | dict(settings or {})
        self._user = pwd.getpwnam(_SYSTEM_USER) if os.geteuid() == 0 else None
        self._port = free_port()

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._folder / "data"

    @property
    def url(self) -> str:
        """The database askmesh, as its superuser."""
        return f"postgresql://{SUPERUSER}@{HOST}:{self._port}/{DATABASE}"

    def prepare(self) -> Program:
        if not self.data.exists():
            self._folder.mkdir(mode=0o755, exist_ok=True)
            self.data.mkdir(mode=0o700)
            if self._user:
                os.chown(self.data, self._user.pw_uid, self._user.pw_gid)
            self._run("initdb", "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
            self._run("postgres", "--single", "postgres", text=f"CREATE DATABASE {DATABASE}\n")
        options = self._settings | {"port": str(self._port), "unix_socket_directories": ""}
        return Program(
            name="postgresql",
            command=(
                str(self._binaries / "postgres"),
                "-D",
                str(self.data),
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
            ),
            log=self._folder / "postgresql.log",
            environment={"LC_ALL": "C"},
            is_ready=self._accepts,
            stop_signal=signal.SIGINT,  # "fast": it ends its clients' sessions instead of waiting for them
            stop_seconds=300,  # after a fill, its last checkpoint writes gigabytes
            user=self._user,
        )

    def release(self) -> None:
        """The folder is the caller's."""

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        subprocess.run(
            [str(self._binaries / program), *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            env={"LC_ALL": "C", "PGDATA": str(self.data)},
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )

    def _accepts(self) -> bool:
        command = [str(self._binaries / "pg_isready"), "--quiet", "-h", HOST, "-p", str(self._port)]
        return subprocess.run(command, check=False).returncode == 0


class DebianRedis(Server):
    """A server that keeps nothing on disk, with the embedded Valkey's settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"redis://{HOST}:{self._port}/0"

    def prepare(self) -> Program:
        options = {
            "bind": HOST,
            "port": str(self._port),
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "volatile-lru",
        }
        return Program(
            name="redis",
            command=(
                "/usr/bin/redis-server",
                *(word for one, value in options.items() for word in (f"--{one}", value)),
            ),
            log=self._folder / "redis.log",
            environment={"LC_ALL": "C"},
            is_ready=self._listens,
        )

    def release(self) -> None:
        """The folder is the caller's."""

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex((HOST, self._port)) == 0
