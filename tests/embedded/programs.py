"""Small programs for tests of the supervisor."""

import sys
from collections.abc import Callable
from pathlib import Path

from embedded.processes import Program

WAITS = "print('ready', flush=True); import time; time.sleep(600)"
IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAITS}"


def program(folder: Path, name: str, code: str = WAITS) -> Program:
    """Python code as a program that is ready when its log says so."""
    log = folder / f"{name}.log"
    return Program(
        name=name,
        command=(sys.executable, "-I", "-S", "-c", code),
        log=log,
        is_ready=says(log, "ready"),
        stop_seconds=60,
    )


def says(log: Path, word: str) -> Callable[[], bool]:
    """Whether the log holds ``word`` once more at each call that is true."""
    seen = 0

    def check() -> bool:
        nonlocal seen
        count = log.read_text().count(word)
        seen, before = max(seen, count), seen
        return count > before

    return check
