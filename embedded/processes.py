"""One child process: how it starts in a session of its own, becomes ready, and is stopped for certain."""

import os
import pwd
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from embedded.errors import EmbeddedError

LAUNCH = Path(__file__).with_name("launch.py")
LOG_BYTES = 10_000_000
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a child runs, how it shows that it is ready, and how it is asked to stop."""

    name: str
    command: tuple[str, ...]
    log: Path
    """Its standard output and error, appended."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    is_ready: Callable[[], bool] = lambda: True
    """Asked again and again until it is true. Takes a second at most."""
    start_seconds: float = 60
    """A child that is not ready after so long has failed."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 5
    """A child that is still there so long after ``stop_signal`` is killed."""
    outlives: bool = False
    """Whether it stops only when all that started after it have gone, and not half a second after those were asked."""
    user: pwd.struct_passwd | None = None
    """Whom it runs as; None: as its parent."""
    descriptors: tuple[int, ...] = ()
    """Open files that it inherits under the same numbers."""


class Child:
    """A running program. It leads a session of its own, so a terminal's Ctrl-C does not reach it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process = _start(program)
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def how_it_ended(self) -> str:
        """``exited with status 1`` or ``was ended by SIGKILL``."""
        status = self.process.returncode
        return f"exited with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"

    def is_ready(self) -> bool:
        return self.program.is_ready()

    def is_late(self) -> bool:
        return time.monotonic() > self.started + self.program.start_seconds

    def ask_to_stop(self) -> None:
        self.process.send_signal(self.program.stop_signal)

    def kill(self) -> None:
        """End it and whatever it left in its process group, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def last_log_line(self) -> str:
        """The last line of its log that is not empty."""
        with self.program.log.open("rb") as log:
            log.seek(max(0, self.program.log.stat().st_size - 4_000))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "(nothing)")


def _start(program: Program) -> subprocess.Popen[bytes]:
    uid, gid = (program.user.pw_uid, program.user.pw_gid) if program.user else (-1, -1)
    launch = (sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(program.stop_signal)))
    program.log.parent.mkdir(parents=True, exist_ok=True)
    trim_log(program.log)
    with program.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            (*launch, str(uid), str(gid), *program.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(program.environment),
            pass_fds=program.descriptors,
            start_new_session=True,
        )


def trim_log(log: Path) -> None:
    """Move what a log holds to NAME.log.1 once it has outgrown 10 MB. The writer, who appends, need not reopen it."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.with_name(log.name + ".1").write_bytes(log.read_bytes())
            os.truncate(log, 0)


class Server(ABC):
    """A server that is supervised in the mesh, or runs for the length of a ``with`` block."""

    _child: Child

    @abstractmethod
    def prepare(self) -> Program:
        """Make what the server needs on disk. Raises EmbeddedError."""

    @abstractmethod
    def release(self) -> None:
        """Remove what it needs only while it runs."""

    @property
    def pid(self) -> int:
        """Of the process that ``start`` started."""
        return self._child.pid

    def start(self) -> None:
        """Return when it is ready. Raises EmbeddedError with the last line of its log if it does not become so."""
        try:
            self._child = Child(self.prepare())
            self._wait_until_ready()
        except BaseException:
            self.release()
            raise

    def stop(self) -> None:
        """Ask it to stop, kill it if it does not, and release. Does nothing to a server that has ended."""
        self._child.ask_to_stop()
        try:
            self._child.process.wait(self._child.program.stop_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self.release()

    def kill(self) -> None:
        """End it as kill -9 does. ``stop`` or ``start`` may follow."""
        self._child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        child = self._child
        while not child.is_ready():
            if child.has_ended() or child.is_late():
                child.kill()
                raise EmbeddedError(f"{child.program.name} did not start: {child.last_log_line()}")
            time.sleep(POLL_SECONDS)
