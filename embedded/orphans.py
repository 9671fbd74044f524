"""Finds what a killed supervisor left running.

On Linux children get a signal when their supervisor dies (launch.py). Elsewhere, and while they still drain, the next
supervisor finds them by a file.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from embedded.processes import Child

# psutil derives a process's start from the machine's, which moves between two readings when the clock is set.
_CLOCK_SECONDS = 2


class Register:
    """The running children, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, children: Iterable[Child]) -> None:
        """Replace the file's content, so that at any moment it holds the children before or after."""
        entries = []
        for child in children:
            with suppress(psutil.NoSuchProcess):
                created = psutil.Process(child.pid).create_time()
                entries.append(
                    {
                        "name": child.program.name,
                        "pid": child.pid,
                        "created": created,
                        "stop_signal": int(child.program.stop_signal),
                        "outlives": child.program.outlives,
                    }
                )
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(entries, indent=1))
        draft.replace(self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    def stop_orphans(self, patience: float, say: Callable[[str], None]) -> None:
        """End the recorded processes that still run, servers last, each kind within ``patience`` seconds."""
        try:
            entries = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):  # a power cut can leave an empty file, and no process
            return
        for outlives in (False, True):
            orphans = []
            for entry in entries:
                if entry["outlives"] == outlives and (process := _find(entry["pid"], entry["created"])):
                    say(f"{entry['name']} was left by a killed start (process {process.pid}): stopping it")
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(entry["stop_signal"])
                    orphans.append(process)
            _, alive = psutil.wait_procs(orphans, timeout=patience)
            for process in alive:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            psutil.wait_procs(alive, timeout=patience)
        self.clear()


def _find(pid: int, created: float) -> psutil.Process | None:
    """The process with this number, if it is the recorded one and not a later one that got the number again."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
