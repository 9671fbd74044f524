"""The rows that need two meshes at a time: one idles while the other is measured."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from sqlalchemy.engine import make_url

from benchmarks.figures import Figure
from benchmarks.filling import fill_anew
from benchmarks.measured import Measured, middle
from benchmarks.model_server import Profile
from benchmarks.queue_rows import drain, hold, release
from benchmarks.stage import Stage, run
from benchmarks.stores import DebianPostgreSQL
from embedded.postgresql import PostgreSQL

Database = PostgreSQL | DebianPostgreSQL

TURNS = 2
_MILLION_TURNS = 4
_FINISHED = 10_000_000
_ASKED = 1_000
_POLLED = 1_000

FILLING = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "max_parallel_maintenance_workers": "2",
}
"""Settings of a PostgreSQL that is being filled: a crash would cost the data, which is then measured under others."""


def replicas(debian: bool) -> Iterator[Figure]:
    """Two of each service against one: 512 in flight, of which two have 256 each, and 256; 100 ms + 32 x 20 ms."""
    row = "two of each"
    two = {f"ASKMESH_{name}_REPLICAS": "2" for name in ("API", "WORKER", "LLM")}
    with Stage(debian=debian) as small, Stage(two, debian=debian) as large:
        for stage in (small, large):
            stage.profile(Profile(first=0.1, tokens=32, delay=0.02, batch=512))
            stage.put("wait", 512, at_once=512)
        one, both = _in_turns(small, large, 512)
        yield Figure(row, "CPU a question with one of each", one.mesh_cpu_each, "ms", cpu=one.cpu_each)
        yield Figure(row, "CPU a question", both.mesh_cpu_each, "ms", cpu=both.cpu_each)
        yield Figure(row, "CPU a question, of that with one", both.mesh_cpu_each / one.mesh_cpu_each, "", 1.15)
        for name in ("api_service", "worker_service", "llm_service"):
            yield Figure(row, f"one core of {name} carries", 1e3 / both.cpu_each[name], "questions/s")
        # A process that is given half as much puts less into each message and each statement.
        one, both = _in_turns(small, large, 256)
        detail = f"{both.mesh_cpu_each:.2f} and {one.mesh_cpu_each:.2f} ms"
        grown = both.mesh_cpu_each / one.mesh_cpu_each
        yield Figure(
            row, "CPU a question with 128 in flight for each, of that with one", grown, "", 1.15, detail=detail
        )


def _in_turns(small: Stage, large: Stage, at_once: int) -> tuple[Measured, Measured]:
    turns = [[stage.put("wait", 4 * at_once, at_once=at_once) for stage in (small, large)] for _ in range(TURNS)]
    one, both = (middle(loads) for loads in zip(*turns, strict=True))
    return one, both


def ten_million(debian: bool, finished: int = _FINISHED) -> Iterator[Figure]:
    """Asking, claiming and polling with 10 million finished answers in PostgreSQL, against a few thousand."""
    row = f"{finished:,} finished answers"
    with tempfile.TemporaryDirectory(prefix="askmesh-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        asked = _MILLION_TURNS * _POLLED
        seconds = fill(lambda settings: _server(folder, settings, debian=debian), finished, asked)
        database = _server(folder, {}, debian=debian)
        stack.enter_context(database)
        large = filled(database.url)
        stages = [
            stack.enter_context(Stage({"ASKMESH_DATABASE_URL": url}, debian=debian, beside=[database.pid]))
            for url in (database.url, large)
        ]
        gigabytes = run(large, "SELECT pg_database_size('filled') / 1e9")
        yield Figure(row, "size", float(gigabytes), "GB", detail=f"filled in {seconds:.0f} s")
        yield from _compare(row, *stages)


def fill(server: Callable[[dict[str, str]], Database], finished: int, asked: int = 1) -> float:
    """Make a database ``filled`` beside ``askmesh``, with so many finished answers; the seconds that it took.

    ``askmesh`` gets ``asked`` of the mesh's own.
    """
    database = server(FILLING)
    with database:
        with Stage({"ASKMESH_DATABASE_URL": database.url}) as stage:
            stage.profile(Profile(first=0, tokens=8, delay=0.001))
            stage.put("wait", asked, at_once=64, tokens=8)
            like = stage.run("SELECT max(id) FROM questions")
        began = time.monotonic()
        run(database.url, "CREATE DATABASE filled TEMPLATE askmesh")
        fill_anew(filled(database.url), like, finished)
        return time.monotonic() - began


def filled(url: str) -> str:
    """The filled database on the same server."""
    return make_url(url).set(database="filled").render_as_string(hide_password=False)


def _server(folder: Path, settings: dict[str, str], *, debian: bool) -> Database:
    if debian:
        return DebianPostgreSQL(folder / "postgresql", settings)
    return PostgreSQL(folder / "postgresql", settings=settings)


def _compare(row: str, small: Stage, large: Stage) -> Iterator[Figure]:
    asked: list[list[Measured]] = [[], []]
    polled: list[list[Measured]] = [[], []]
    claimed: list[list[float]] = [[], []]
    finished = [_some_finished(stage) for stage in (small, large)]
    for turn in range(_MILLION_TURNS):
        for at, stage in enumerate((small, large)):
            hold(stage)
            asked[at].append(stage.put("submit", _ASKED, at_once=64))
            claimed[at].append(drain(stage, _ASKED // 2))
            release(stage)
            # Each is polled once, so that the second poll is not Redis's.
            ids = finished[at][turn * _POLLED : (turn + 1) * _POLLED]
            polled[at].append(stage.put("poll", len(ids), at_once=16, question_ids=ids))
    for what, unit, loads in (("ask", "questions/s", asked), ("poll", "polls/s", polled)):
        before, after = middle(loads[0]), middle(loads[1])
        detail = f"{after.rate:.0f} of {before.rate:.0f} {unit}"
        yield Figure(
            row,
            f"{what} rate, of that with a few thousand",
            after.rate / before.rate,
            "",
            0.85,
            at_most=False,
            detail=f"{detail}, {after.mesh_cpu_each:.2f} and {before.mesh_cpu_each:.2f} ms of CPU",
            cpu=after.cpu_each,
        )
    slow, fast = median(claimed[1]), median(claimed[0])
    detail = f"{slow:.0f} of {fast:.0f} answers/s"
    yield Figure(row, "claim rate, of that with a few thousand", slow / fast, "", 0.85, at_most=False, detail=detail)


def _some_finished(stage: Stage) -> list[int]:
    first, last = (stage.run(f"SELECT {which}(id) FROM questions") for which in ("min", "max"))
    return random.sample(range(first, last + 1), _MILLION_TURNS * _POLLED)
