"""CPU time and memory of what a benchmark starts, by what it is."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil

_NAMES = {
    "benchmarks.load": "load",
    "benchmarks.model_server": "fake model",
    "vllm.entrypoints.openai.api_server": "vLLM",
    "VLLM": "vLLM",
    "benchmarks.parts": "bare parts",
    "llm_service": "llm_service",
    "worker_service": "worker_service",
    "api_service": "api_service",
    "embedded": "supervisor",
    "postgres": "PostgreSQL",
    "valkey-server": "Redis",
    "redis-server": "Redis",
    "beam.smp": "RabbitMQ",
    "erl_child_setup": "RabbitMQ",
    "epmd": "RabbitMQ",
}

INSTRUMENTS = frozenset({"benchmark", "load", "fake model", "vLLM"})
"""What measures, and the model: no part of the mesh."""


def seconds(roots: Iterable[int]) -> dict[str, float]:
    """CPU seconds so far of these processes and all below them, those that have ended included, by name.

    Servers lead sessions of their own, and a postmaster's backends groups of their own, but each is below the process
    that started it.
    """
    used: dict[str, float] = defaultdict(float)
    for process in _family(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # A child that has ended counts for its parent; one that lives counts for itself.
            used[_name(process)] += times.user + times.system + times.children_user + times.children_system
    return used


def all_seconds() -> float:
    """CPU seconds so far of everything on this machine, and what its host took away."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0)
    # A guest's time is part of the user's.
    return float(sum(times) - idle - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0))


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


def of_mesh(used: Mapping[str, float]) -> float:
    """The sum of all services and stores."""
    return sum(share for name, share in used.items() if name not in INSTRUMENTS)


def average(uses: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name's share."""
    uses = list(uses)
    return {
        name: sum(one.get(name, 0) for one in uses) / len(uses) for name in sorted({n for one in uses for n in one})
    }


def _family(roots: Iterable[int]) -> set[psutil.Process]:
    found = set()
    for pid in roots:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= {root, *root.children(recursive=True)}
    return found


def _name(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return "benchmark"
    words = process.cmdline() or [process.name()]
    modules = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-m"]
    for name in (*modules, process.name()):
        for pattern, told in _NAMES.items():
            if name == pattern or name.startswith(f"{pattern}:"):
                return told
    return process.name()
