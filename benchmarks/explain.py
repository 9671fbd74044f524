"""``python -m benchmarks.explain > docs/explain.md``: how PostgreSQL runs the mesh's statements over a large database.

Debian's PostgreSQL and its auto_explain write down the plan, the times and the buffers of each statement as the
services send it; the embedded PostgreSQL has no such module. Takes some minutes and 8 GB of disk.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from benchmarks.conditions import conditions
from benchmarks.model_server import Profile
from benchmarks.own_rows import fill, filled
from benchmarks.queue_rows import drain, hold, queue
from benchmarks.stage import Stage, run
from benchmarks.stores import DebianPostgreSQL

_EXPLAINING = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_filename": "statements",
    "log_file_mode": "0600",
}
# What a statement does, by words of it; the first that fits. What fits none is told as it is.
_KINDS = (
    ("Accept a question", r"INSERT INTO questions.*answers|INSERT INTO answers"),
    ("Find a question asked before under an Idempotency-Key", r"FROM questions WHERE owner.*idempotency"),
    ("Claim", r"nextval\('claim_tokens'"),
    ("Turns: where the claims are", r"FROM claim_tokens"),
    ("Turns: the highest of each queue", r"AS latest"),
    ("Final write", r"finish_reason\s*=.*finished_at"),
    ("Poll", r"FROM questions q JOIN LATERAL.*q\.id = \$"),
    ("Watch: which of the waited for have changed", r"unnest.*known"),
    ("The queue's first thousand", r"SELECT id FROM answers.*ORDER BY turn.*LIMIT"),
    ("Sweeper: take back what a dead worker held", r"WITH lost AS"),
    ("Sweeper: wake what waited", r"due_at <="),
    ("Sweeper: what is overdue", r"next_deadline <="),
    ("Sweeper: end reuse", r"reuse_until <=.*LIMIT"),
    ("Sweeper: forget workers", r"DELETE FROM workers"),
    ("Sweeper: fold the ledger", r"DELETE FROM ledger_entries"),
    ("Count what is due", r"count\(\*\).*due"),
    ("Renewal of the lease", r"UPDATE workers SET lease_until"),
    ("Renewal: what is held", r"SELECT token FROM answers"),
    ("Cancel: the question", r"UPDATE questions SET ended"),
    ("Cancel: the answer", r"UPDATE answers\s+SET state = 'cancelled'"),
)
# What drivers and migrations ask, and what a process does once.
_IGNORED = re.compile(r"pg_catalog|alembic_version|FROM ONLY|current_s|INSERT INTO workers", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A statement as a service sent it, and how PostgreSQL ran it."""

    service: str
    words: str
    milliseconds: float
    plan: str

    @property
    def kind(self) -> str:
        """What it does."""
        flat = " ".join(self.words.split())
        return next((kind for kind, pattern in _KINDS if re.search(pattern, flat, re.DOTALL)), "Another statement")


def parse(log: str) -> Iterator[Statement]:
    """The statements of the services in a log in PostgreSQL's JSON format."""
    for line in log.splitlines():
        entry = json.loads(line)
        found = re.match(r"duration: ([\d.]+) ms  plan:\nQuery Text: (.*)", entry.get("message", ""), re.DOTALL)
        if not found or _IGNORED.search(found[2]):
            continue
        lines = found[2].splitlines()
        begin = next(at for at, line in enumerate(lines) if re.search(r"\(cost=\S+ rows=", line))
        words = dedent("\n".join(lines[:begin])).strip()
        yield Statement(entry.get("application_name", ""), words, float(found[1]), "\n".join(lines[begin:]))


def as_markdown(statements: Sequence[Statement], about: Sequence[str]) -> Iterator[str]:
    """Each kind of statement once: the run of the middle length, once plans are warm."""
    yield from about
    for kind in dict.fromkeys([*(kind for kind, _ in _KINDS), "Another statement"]):
        texts = dict.fromkeys((one.service, one.words) for one in statements if one.kind == kind)
        for service, words in texts:
            runs = sorted(
                (one for one in statements if (one.service, one.words) == (service, words)),
                key=lambda one: one.milliseconds,
            )
            yield from ("", f"## {kind}", "", f"{service}, {len(runs)} times.", "", "```sql", words, "```", "")
            yield from ("```", runs[len(runs) // 2].plan, "```")


def main() -> int:
    """Fill, ask, and print what was logged."""
    parser = argparse.ArgumentParser(prog="benchmarks.explain", description=__doc__)
    parser.add_argument("--finished", type=int, default=10_000_000, help="answers in the database (10 million)")
    finished = parser.parse_args().finished
    with tempfile.TemporaryDirectory(prefix="askmesh-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        fill(lambda settings: DebianPostgreSQL(folder / "postgresql", settings), finished)
        database = stack.enter_context(DebianPostgreSQL(folder / "postgresql", _EXPLAINING))
        url = filled(database.url)
        size = float(run(url, "SELECT pg_database_size('filled') / 1e9"))
        version = run(url, "SHOW server_version")
        with Stage({"ASKMESH_DATABASE_URL": url}) as stage:
            _exercise(stage)
        log = (database.data / "log" / "statements.json").read_text()
    under = conditions(debian=True)
    about = [
        "# How PostgreSQL runs each statement",
        "",
        f"Printed by `python -m benchmarks.explain`, {under['date']}, {under['machine']},",
        f"PostgreSQL {version}, with {finished:,} finished answers ({size:.1f} GB).",
        "",
        "Each statement as the services sent it, with what `EXPLAIN (ANALYZE, BUFFERS)` says, by auto_explain.",
        "Of all its runs, the one of middle length. `shared hit`: pages of 8 kB found in PostgreSQL's own memory.",
    ]
    services = [one for one in parse(log) if one.service.startswith(("api_service", "worker_service"))]
    print("\n".join(as_markdown(services, about)))  # noqa: T201 - this is what the command is for
    return 0


def _exercise(stage: Stage) -> None:
    """Let the services send every statement, each often enough for PostgreSQL to settle on a plan."""
    stage.profile(Profile(first=0.05, tokens=8, delay=0.01))
    stage.put("wait", 200, at_once=8, tokens=8)
    stage.put("stream", 20, at_once=4, tokens=8)
    stage.put("wait", 200, at_once=16, tokens=8, texts=10)
    stage.put("submit", 20, texts=10, headers="Idempotency-Key: {number}\r\n")
    first, last = (stage.run(f"SELECT {which}(id) FROM questions") for which in ("min", "max"))
    some = [first + (last - first) * part // 200 for part in range(1, 200)]
    stage.put("poll", len(some), at_once=8, question_ids=some)
    hold(stage)
    queued = stage.run("SELECT max(id) FROM questions")
    stage.put("poll", 20, question_ids=[queued])
    stage.put("cancel", 20, question_ids=[queued - number for number in range(20)])
    queue(stage, 50_000)
    time.sleep(7)  # the sweeper's rounds and a heartbeat, with a queue
    drain(stage, 2_000)


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
