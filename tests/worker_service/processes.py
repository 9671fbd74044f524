"""Workers as processes, as they run in production."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.worker_service.waiting import eventually


class WorkerProcess:
    """``python -m worker_service`` with these settings; killed at the end if it is still there."""

    def __init__(self, settings: dict[str, str], log: Path) -> None:
        self.log = log
        self._folder = tempfile.TemporaryDirectory(prefix="askmesh-")
        address = f"{self._folder.name}/notify"
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notifications.bind(address)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASKMESH_")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker_service"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | settings | {"NOTIFY_SOCKET": address},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._notifications.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    async def ready(self) -> None:
        """Wait until it says that it is ready."""
        await eventually(self._has_told, "the worker is ready", seconds=60)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit status."""
        await eventually(lambda: self._process.poll() is not None, "the worker ends", seconds=60)
        assert self._process.returncode is not None
        return self._process.returncode

    def log_text(self) -> str:
        return self.log.read_text()

    def _has_told(self) -> bool:
        assert self._process.poll() is None, f"the worker exited with {self._process.returncode}:\n{self.log_text()}"
        try:
            return self._notifications.recv(64) == b"READY=1"
        except BlockingIOError:
            return False
