"""What a test needs beside this process, as marks: ``pytest -m unit`` runs those that need nothing.

A fixture says what it needs by its name or by the fixtures that it asks for: ``engine`` asks for ``postgresql``.
A test that starts something without a fixture bears the mark by hand; one that forgets it fails.
"""

import sys
import threading
from typing import Final

import pytest

NEEDS: Final = ("loopback", "processes", "postgresql", "valkey", "rabbitmq", "nginx", "chromium")
"""Each is a mark, and the name of a fixture where fixtures need it."""

_REST: Final = ("e2e", "chaos", "vllm")
_FORBIDDEN: Final = {
    "socket.bind": "loopback",
    "socket.connect": "loopback",
    "socket.getaddrinfo": "loopback",
    "os.fork": "processes",
    "os.posix_spawn": "processes",
    "subprocess.Popen": "processes",
}
"""Python's audit events that a test without a need may not cause, and the mark that allows them."""


def mark_needs(item: pytest.Item) -> None:
    """Give a test the marks of the fixtures that it uses, or ``unit`` where it needs nothing."""
    for need in NEEDS:
        if need in getattr(item, "fixturenames", ()):
            item.add_marker(need)
    if not any(item.get_closest_marker(name) for name in (*NEEDS, *_REST)):
        item.add_marker("unit")


class Guard:
    """Refuses sockets and processes to a test that is marked ``unit``."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._main = threading.main_thread()
        self._guards = False
        sys.addaudithook(self._look)

    def watch(self, item: pytest.Item | None) -> None:
        """From now on this test runs, or none."""
        self.refused = set()
        self._guards = item is not None and item.get_closest_marker("unit") is not None

    def _look(self, event: str, _arguments: object) -> None:
        # Threads of servers that other tests of the module share go on meanwhile.
        if self._guards and event in _FORBIDDEN and threading.current_thread() is self._main:
            self.refused.add(_FORBIDDEN[event])
            raise RuntimeError(f"{event} in a test without the mark {_FORBIDDEN[event]}")
