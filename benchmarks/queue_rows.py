"""The rows that are measured while questions stay queued, because the model server begins nothing."""

import asyncio
import time
from collections.abc import Iterator
from statistics import median

from pydantic import SecretStr

from benchmarks.figures import Figure
from benchmarks.filling import add_copies
from benchmarks.measured import middle, percentile
from benchmarks.model_server import Profile
from benchmarks.stage import Stage
from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from questions import claims, worker_leases

SLOTS = 512
"""What the one worker takes off the queue before it is full: its default."""
TURNS = 2
_LONG_TURNS = 4
"""Minutes apart the machine may be a fifth faster or slower, and a turn takes 20 s."""
_LONG = 50_000
_SHORT = 3_000
_DRAINED = 2_000
_FINISHED = 100_000
_CLAIMS = 40
_CLAIM_ROUNDS = 5
_WARM = 200
_SWEEPER_SECONDS = 7
"""Three rounds of the sweeper and two heartbeats, at the least."""


def submit_alone(stage: Stage) -> Iterator[Figure]:
    """POST alone, durable and hinted, on one api_service process."""
    row = "submit alone"
    hold(stage)
    seen = middle([stage.put("submit", 3_000, at_once=64) for _ in range(TURNS)])
    yield Figure(row, "rate", seen.rate, "questions/s", 900, at_most=False, cpu=seen.cpu_each)
    paced = middle([stage.put("submit", 1_500, rate=300) for _ in range(TURNS)])
    detail = f"median {median(paced.latencies) * 1e3:.1f} ms"
    p99 = percentile(paced.latencies, 99) * 1e3
    yield Figure(row, "p99 at 300/s", p99, "ms", 50, detail=detail, cpu=paced.cpu_each)
    release(stage)


def long_queue(stage: Stage) -> Iterator[Figure]:
    """Submitting, claiming and sweeping with 50,000 questions queued, against 50."""
    row = "50,000 queued"
    # In a table of nothing but queued answers, reading it as a whole would be right.
    stage.profile(Profile(first=0, tokens=1))
    stage.put("wait", 1, tokens=1)
    add_copies(stage.database_url(), stage.run("SELECT max(id) FROM questions"), _FINISHED)
    hold(stage)
    short, long, short_claims, long_claims = [], [], [], []
    for _ in range(_LONG_TURNS):
        _leave_queued(stage, 50)
        memory_before = stage.megabytes()
        short_claims += _claim_times(stage)
        short.append(stage.put("submit", 1_000, at_once=64))
        queue(stage, _LONG)
        _settle(stage)
        memory_after = stage.megabytes()
        long_claims += _claim_times(stage)
        long.append(stage.put("submit", 1_000, at_once=64))
    queued = stage.run("SELECT count(*) FROM answers WHERE state = 'queued'")
    yield Figure(row, "queued", queued, bar=_LONG, at_most=False)
    before, after = middle(short), middle(long)
    detail = f"{after.rate:.0f} of {before.rate:.0f} questions/s"
    yield Figure(row, "submit rate, of that with 50", after.rate / before.rate, "", 0.85, False, detail, after.cpu_each)
    detail = f"a claim takes {median(long_claims) * 1e3:.2f} and {median(short_claims) * 1e3:.2f} ms"
    ratio = median(short_claims) / median(long_claims)
    yield Figure(row, "claim rate, of that with 50", ratio, "", 0.85, at_most=False, detail=detail)
    for name in ("api_service", "worker_service", "Redis"):
        detail = f"{memory_after[name]:.0f} of {memory_before[name]:.0f} MB"
        grown = memory_after[name] / memory_before[name]
        yield Figure(row, f"{name}'s memory, of that with 50", grown, "", 1.15, detail=detail)
    yield Figure(row, "tables read as a whole by the sweeper, heartbeats and api_service", _scans(stage), bar=0)
    drain(
        stage, _DRAINED
    )  # the first is slower by a fifth, however long the queue: the worker has done next to nothing
    drained: dict[int, list[float]] = {_LONG: [], _SHORT: []}
    for _ in range(TURNS):
        for length, rates in drained.items():
            hold(stage)
            _leave_queued(stage, 50)
            queue(stage, length)
            rates.append(drain(stage, _DRAINED))
    long_rate, short_rate = (median(rates) for rates in drained.values())
    detail = f"{long_rate:.0f} of {short_rate:.0f} answers/s"
    what = f"answers claimed and finished, of that with {_SHORT:,}"
    yield Figure(row, what, long_rate / short_rate, "", 0.85, False, detail)
    _leave_queued(stage, 0)
    release(stage)


def hold(stage: Stage) -> None:
    """Fill the worker's slots with answers that do not begin, so that further questions stay queued."""
    stage.profile(Profile(first=3_600, batch=2 * SLOTS))
    stage.put("submit", SLOTS + 50, at_once=64)
    deadline = time.monotonic() + 60
    while stage.stats()["requests"] < SLOTS:
        assert time.monotonic() < deadline, f"the worker's {SLOTS} slots do not fill"
        time.sleep(0.1)


def release(stage: Stage) -> None:
    """Let everything end that is queued."""
    stage.profile(Profile(first=0, tokens=1, batch=2 * SLOTS))
    deadline = time.monotonic() + 120
    while stage.run("SELECT count(*) FROM answers WHERE state IN ('queued', 'in_progress')"):
        assert time.monotonic() < deadline, "the queue does not empty"
        time.sleep(0.5)


def queue(stage: Stage, count: int) -> None:
    """Add copies of a queued question until so many are queued."""
    queued = stage.run("SELECT count(*) FROM answers WHERE state = 'queued'")
    like = stage.run(
        "SELECT questions.id FROM questions JOIN answers ON answers.id = answer_id WHERE state = 'queued' LIMIT 1"
    )
    add_copies(stage.database_url(), like, count - queued)


def drain(stage: Stage, count: int) -> float:
    """How many questions a second the worker claims and finishes, out of a queue that holds more; then hold again.

    The model server answers in one token at once. What the slots held before does not count.
    """
    stage.profile(Profile(first=0, tokens=1, batch=2 * SLOTS))
    began = _until_completed(stage, _WARM)
    seconds = _until_completed(stage, _WARM + count) - began
    stage.profile(Profile(first=3_600, batch=2 * SLOTS))
    return count / seconds


def _until_completed(stage: Stage, count: int) -> float:
    deadline = time.monotonic() + 120
    while stage.stats()["completed"] < count:
        assert time.monotonic() < deadline, f"{count} answers do not end: {stage.stats()}"
        time.sleep(0.02)
    return time.monotonic()


def _leave_queued(stage: Stage, count: int) -> None:
    """Forget what is queued beyond so many, and what it left in tables and indexes."""
    beyond = f"SELECT id FROM answers WHERE state = 'queued' ORDER BY turn, id OFFSET {count}"
    stage.run(
        f"WITH gone AS MATERIALIZED ({beyond}), questions AS (DELETE FROM questions WHERE answer_id IN (TABLE gone))"
        " DELETE FROM answers WHERE id IN (TABLE gone)"
    )
    _settle(stage)


def _settle(stage: Stage) -> None:
    """Have PostgreSQL do now what it would do beside the next measurement, after so many rows have come or gone."""
    stage.run("VACUUM (ANALYZE) answers, questions")
    stage.run("CHECKPOINT")


def _claim_times(stage: Stage) -> list[float]:
    """Seconds that each of some claims took, as a worker makes them; what was claimed is handed back."""

    async def claim() -> list[float]:
        engine = create_engine(DatabaseSettings(database_url=SecretStr(stage.database_url())), "benchmark")
        try:
            worker_id = await worker_leases.register_worker(engine, "benchmark", 60)
            times = []
            for _ in range(_CLAIM_ROUNDS):
                for _ in range(_CLAIMS):
                    began = time.perf_counter()
                    assert await claims.claim(engine, worker_id, 1)
                    times.append(time.perf_counter() - began)
                await worker_leases.hand_back_all_but(engine, worker_id, [])
            await worker_leases.retire_worker(engine, worker_id)
            return times
        finally:
            await engine.dispose()

    return asyncio.run(claim())


def _scans(stage: Stage) -> int:
    """How often the two tables were read as a whole in some rounds of the sweeper, nobody asking anything."""
    count = "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('questions', 'answers')"
    time.sleep(1.5)  # what was counted before is written by then
    before = stage.run(count)
    time.sleep(_SWEEPER_SECONDS)
    return int(stage.run(count) - before)
