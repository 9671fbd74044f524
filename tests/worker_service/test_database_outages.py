"""The worker and PostgreSQL: restarted, frozen, or not there yet. Each test has a server of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.postgresql import PostgreSQL
from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from schema.migrations.__main__ import migrate
from tests.servers import execute
from tests.worker_service.asking import answers, ask, states
from tests.worker_service.conftest import StartWorker
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.waiting import eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgreSQL]:
    # A test that kills it needs what was committed.
    with PostgreSQL(tmp_path / "postgresql" / "data") as server:
        yield server


@pytest.fixture
async def mortal_engine(server: PostgreSQL) -> AsyncIterator[AsyncEngine]:
    """A pool on a database that is empty and has no schema."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(server.url)), "tests")
    yield engine
    await engine.dispose()


async def ask_five(engine: AsyncEngine) -> None:
    for number in range(5):
        await ask(engine, f"question {number}")


async def all_completed(engine: AsyncEngine) -> None:
    async def done() -> bool:
        return (await states(engine))["completed"] == 5

    await eventually(done, "all are answered", seconds=60)


async def test_answers_that_end_while_it_is_away_are_written_when_it_is_back(
    server: PostgreSQL, mortal_engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    await migrate(server.url)
    llm.flowing.clear()
    worker = start_worker(ASKMESH_DATABASE_URL=server.url, ASKMESH_LEASE_SECONDS="60")
    await worker.ready()
    await ask_five(mortal_engine)
    await eventually(lambda: llm.running == 5, "the questions are being answered")
    await mortal_engine.dispose()

    server.stop()
    llm.flowing.set()
    await eventually(lambda: llm.running == 0, "the answers are there")
    await eventually(lambda: "does not answer" in worker.log_text(), "it notices")
    server.start()

    await all_completed(mortal_engine)
    assert llm.asked.total() == 5
    assert {(row.attempt, row.losses) for row in (await answers(mortal_engine)).values()} == {(1, 0)}
    # One line for the questions and one for the lease, whatever how many calls failed.
    assert worker.log_text().count("does not answer") <= 2


async def test_a_worker_that_cannot_renew_its_lease_stops_and_later_starts_again(
    server: PostgreSQL, mortal_engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    await migrate(server.url)
    llm.flowing.clear()
    worker = start_worker(ASKMESH_DATABASE_URL=server.url)
    await worker.ready()
    await ask_five(mortal_engine)
    await eventually(lambda: llm.running == 5, "the questions are being answered")

    with stopped(server):
        await eventually(lambda: llm.aborted.total() == 5, "it stops its calls")
        assert "the lease is lost: 5" in worker.log_text()
    llm.flowing.set()

    await all_completed(mortal_engine)
    assert llm.asked.total() == 10
    assert {row.attempt for row in (await answers(mortal_engine)).values()} == {2}


async def test_a_worker_waits_for_everything_that_is_not_there_yet(
    server: PostgreSQL, mortal_engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.stop()
    nobody = tmp_path / "nobody.sock"
    worker = start_worker(ASKMESH_DATABASE_URL=server.url, ASKMESH_REDIS_URL=f"unix://{nobody}")
    await eventually(lambda: "PostgreSQL does not answer" in worker.log_text(), "it waits for the server")
    server.start()
    await eventually(
        lambda: "waiting for the database to have revision" in worker.log_text(), "it waits for the schema"
    )
    await migrate(server.url)

    await worker.ready()
    await ask_five(mortal_engine)
    await all_completed(mortal_engine)


async def test_a_worker_leaves_connections_that_lead_to_a_read_only_server(
    server: PostgreSQL, mortal_engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    await migrate(server.url)
    llm.flowing.clear()
    worker = start_worker(ASKMESH_DATABASE_URL=server.url, ASKMESH_LEASE_SECONDS="60")
    await worker.ready()
    await ask_five(mortal_engine)
    await eventually(lambda: llm.running == 5, "the questions are being answered")
    # Of the sessions that there are all become read-only, and none that comes after, as after a failover.
    execute(server.url, "ALTER ROLE postgres SET default_transaction_read_only = off")
    execute(server.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    execute(server.url, "SELECT pg_reload_conf()")
    await mortal_engine.dispose()
    llm.flowing.set()

    await all_completed(mortal_engine)
    assert llm.asked.total() == 5
    assert {(row.attempt, row.losses) for row in (await answers(mortal_engine)).values()} == {(1, 0)}


@pytest.mark.alone
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_outage_that_outlasts_leases_costs_nobody_a_loss(
    server: PostgreSQL, mortal_engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, how: str
) -> None:
    await migrate(server.url)
    llm.flowing.clear()
    workers = [start_worker(ASKMESH_DATABASE_URL=server.url) for _ in range(2)]
    await asyncio.gather(*(worker.ready() for worker in workers))
    await ask_five(mortal_engine)
    for times in range(1, 3):
        await eventually(lambda: llm.running == 5, "the questions are being answered", seconds=60)
        await mortal_engine.dispose()
        # Long enough for the leases of 6 s to run out.
        if how == "killed":
            server.kill()
            await asyncio.sleep(9)
            server.start()
        else:
            with stopped(server):
                await asyncio.sleep(9)

        async def all_again(times: int = times) -> bool:
            rows = (await answers(mortal_engine)).values()
            return {row.state for row in rows} == {"in_progress"} and min(row.attempt for row in rows) > times

        await eventually(all_again, "they are being answered again", seconds=60)
    assert {(row.losses, row.interruptions) for row in (await answers(mortal_engine)).values()} == {(0, 0)}
    llm.flowing.set()
    await all_completed(mortal_engine)


@contextmanager
def stopped(server: PostgreSQL) -> Iterator[None]:
    """The server's processes do nothing meanwhile."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
