"""Engines that die and come back, with real services as processes: what happens to answers that take long."""

import asyncio
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.ports import free_port
from tests.llm_service.processes import service_process
from tests.worker_service.asking import answers, ask, states
from tests.worker_service.conftest import StartWorker
from tests.worker_service.waiting import eventually

pytestmark = pytest.mark.alone


class Engine:
    """The fake model server as a process that is started again, a second after its end."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.deaths = 0
        self._port = port
        self._process: Process | None = None
        self._up = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()

    async def run(self) -> None:
        try:
            while True:
                await self._may_start.wait()
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.fakes.model_server", "--port", str(self._port),
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                await self._until_listening()
                self._up.set()
                await self._process.wait()
                self._up.clear()
                self.deaths += 1
                await asyncio.sleep(1)
        finally:
            if self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    async def up(self) -> None:
        await asyncio.wait_for(self._up.wait(), 60)

    def kill(self, *, stays_away: bool = False) -> None:
        assert self._process is not None
        if stays_away:
            self._may_start.clear()
        self._up.clear()
        self._process.kill()

    def come_back(self) -> None:
        self._may_start.set()

    async def _until_listening(self) -> None:
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def engine_and_workers(start_worker: StartWorker, count: int) -> AsyncIterator[Engine]:
    engine = Engine(free_port())
    running = asyncio.create_task(engine.run())
    try:
        await engine.up()
        async with service_process(engine.url) as service:
            target = f"127.0.0.1:{service.port}"
            workers = [start_worker(ASKMESH_LLM_TARGETS=target, ASKMESH_MAX_OUTPUT_TOKENS="4000") for _ in range(count)]
            await asyncio.gather(*(worker.ready() for worker in workers))
            yield engine
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until_in_progress(database: AsyncEngine, count: int, seconds: float) -> float:
    began = time.monotonic()

    async def all_are() -> bool:
        return (await states(database))["in_progress"] == count

    await eventually(all_are, f"{count} answers are being written", seconds)
    return time.monotonic() - began


@pytest.mark.parametrize("away", [None, 15.0], ids=["a crash", "an outage"])
async def test_all_are_being_written_again_within_10_s_however_long_they_are(
    engine: AsyncEngine, start_worker: StartWorker, away: float | None
) -> None:
    async with engine_and_workers(start_worker, 2) as model:
        for number in range(40):
            await ask(engine, f"long {number} [[tokens=1200 delay=0.25]]")
        await until_in_progress(engine, 40, 30)
        await asyncio.sleep(3)
        model.kill(stays_away=away is not None)
        if away is not None:
            await asyncio.sleep(away)
            model.come_back()
        await model.up()

        await until_in_progress(engine, 40, 10)
        rows = (await answers(engine)).values()
        assert {row.losses for row in rows} == {0}


@pytest.mark.parametrize(("killers", "innocents", "tokens", "seconds"), [(2, 6, 60, 120)])
async def test_who_kills_the_engine_is_found_and_costs_nobody_the_answer(
    engine: AsyncEngine, start_worker: StartWorker, killers: int, innocents: int, tokens: int, seconds: float
) -> None:
    async with engine_and_workers(start_worker, 2) as model:
        for number in range(innocents):
            await ask(engine, f"innocent {number} [[tokens={tokens} delay=0.25]]")
        for number in range(killers):
            await asyncio.sleep(3)
            await ask(engine, f"killer {number} [[tokens=40 delay=0.25 fault=exit at=2]]")

        await all_end(engine, innocents, killers, seconds)
        rows = await answers(engine)
        assert {row.error_reason for text, row in rows.items() if text.startswith("killer")} == {"poison"}
        assert {row.state for text, row in rows.items() if text.startswith("innocent")} == {"completed"}
        # Five for which each is blamed, and those of trials of several, for which nobody is.
        assert model.deaths <= 8 * killers


async def all_end(database: AsyncEngine, completed: int, failed: int, seconds: float) -> None:
    async def have_ended() -> bool:
        return await states(database) == {"completed": completed, "failed": failed}

    await eventually(have_ended, "all have ended", seconds)
