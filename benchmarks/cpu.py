"""CPU time and memory of the mesh's processes, by what they are."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil

_NAMES = {
    "embedded.model_server": "model",
    "llm_service": "llm_service",
    "worker_service": "worker_service",
    "api_service": "api_service",
    "embedded": "supervisor",
    "postgres": "PostgreSQL",
    "valkey-server": "Redis",
}


def seconds(roots: Iterable[int]) -> dict[str, float]:
    """CPU seconds so far of these processes and all below them, those that have ended included, by name."""
    used: dict[str, float] = defaultdict(float)
    for process in _family(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # A child that has ended counts for its parent; one that lives counts for itself.
            used[_name(process)] += times.user + times.system + times.children_user + times.children_system
    return used


def megabytes(roots: Iterable[int]) -> dict[str, float]:
    """The largest proportional set size of a process of each name, in MB."""
    largest: dict[str, float] = defaultdict(float)
    for process in _family(roots):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            largest[_name(process)] = max(largest[_name(process)], process.memory_full_info().pss / 1e6)
    return largest


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was used in between."""
    return {name: used - before.get(name, 0) for name, used in sorted(after.items())}


def _family(roots: Iterable[int]) -> set[psutil.Process]:
    found = set()
    for pid in roots:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= {root, *root.children(recursive=True)}
    return found


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    modules = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-m"]
    for name in (*modules, process.name()):
        for pattern, told in _NAMES.items():
            if name == pattern or name.startswith(f"{pattern}:"):
                return told
    return process.name()
