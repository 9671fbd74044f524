"""Receives, without a race, the signals that wake the supervisor: requests to stop, and ends of children."""

import math
import selectors
import signal
import socket
import time
from types import TracebackType
from typing import Self

# One request can arrive twice: a signal to the process group also reaches make, which passes it on.
_ECHO_SECONDS = 1.0


class StopRequested(Exception):  # noqa: N818 - it is no error
    """Somebody pressed Ctrl-C, or ended the process, while the mesh was starting."""


class StopRequests:
    """Receives signals while its ``with`` block lasts. Belongs to the main thread."""

    def __init__(self) -> None:
        self.count = 0
        """How often a stop was requested."""
        self._latest = -math.inf

    def __enter__(self) -> Self:
        self._inbox, self._outbox = socket.socketpair()
        for end in (self._inbox, self._outbox):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox, selectors.EVENT_READ)
        self._previous_fd = signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        self._previous = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None)}
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
            stops.remove(signal.SIGHUP)
        for number in stops:
            self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._selector.close()
        self._inbox.close()
        self._outbox.close()

    def wait(self, seconds: float) -> None:
        """Return at the next signal, a child's end included, or after so many seconds."""
        if self._selector.select(max(0.0, seconds)):
            self._inbox.recv(4096)

    def _count(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._latest > _ECHO_SECONDS:
            self.count += 1
        self._latest = now
