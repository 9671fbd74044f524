"""kill -9 in mid-answer, with real processes and stores: who reads along sees one text without hole or repeat.

One reader has what Redis holds, byte for byte; one has the events of the real API.

The model server is the fake, whose continued answer is the same as an uninterrupted one.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import psutil
import pytest
from aiohttp import ClientSession
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.answer_stream import ReadPosition, read_texts
from tests.api_service.serving import serving, settings_for
from tests.api_service.sse import Event, text_of, watch
from tests.api_service.sse import ask as ask_api
from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.llm_service.processes import Service, service_process
from tests.worker_service.asking import answers
from tests.worker_service.conftest import StartWorker
from tests.worker_service.processes import WorkerProcess
from tests.worker_service.waiting import eventually

HALF = 20
QUESTION = f"Tell me. [[tokens=40 words=mixed hold={HALF}]]"
WHOLE = expected_answer(QUESTION)
BEGINNING = expected_answer(f"Tell me. [[tokens={HALF} words=mixed]]")


class Reader:
    """Reads along as a stream does, and notes each time that text is taken back."""

    def __init__(self, redis: MeshRedis, answer_id: int) -> None:
        self._redis = redis
        self._answer_id = answer_id
        self.epoch = 0
        self.text = b""
        self.restarts = 0
        self.finished = False

    async def read(self) -> None:
        while not self.finished:
            (reading,) = await read_texts(self._redis, [ReadPosition(self._answer_id, self.epoch, len(self.text))])
            if reading is not None:
                if reading.epoch != self.epoch:
                    self.restarts += bool(self.text)
                    self.epoch, self.text = reading.epoch, b""
                assert reading.offset == len(self.text)
                self.text += reading.text
                self.text.decode()
                self.finished = reading.finished
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reading(redis: MeshRedis, answer_id: int) -> AsyncIterator[Reader]:
    reader = Reader(redis, answer_id)
    task = asyncio.create_task(reader.read())
    try:
        yield reader
        await asyncio.wait_for(task, 60)
    finally:
        task.cancel()


async def row(engine: AsyncEngine) -> Any:
    return (await answers(engine))[QUESTION]


async def until_answered(engine: AsyncEngine, fake: FakeModelServer) -> Any:
    async def is_answered() -> bool:
        fake.release()
        return bool((await row(engine)).state == "completed")

    await eventually(is_answered, "the question is answered", seconds=60)
    return await row(engine)


def check_events(events: list[Event]) -> None:
    """The answer comes once, each event at the byte at which the one before it ended."""
    *others, final = events
    assert {event.name for event in others} == {"status", "delta"}
    assert (final.name, final.data["answer_text"]) == ("completed", WHOLE)
    deltas = [event for event in others if event.name == "delta"]
    lengths = accumulate(len(event.data["text"].encode()) for event in deltas)
    assert [event.id for event in deltas] == [f"0:{length}" for length in lengths]
    assert text_of(events) == WHOLE


@pytest.fixture
async def fake() -> AsyncIterator[FakeModelServer]:
    async with FakeModelServer(Options()) as server:
        yield server


@pytest.fixture
async def api(database_url: str, valkey: Valkey) -> AsyncIterator[ClientSession]:
    async with serving(settings_for(database_url, valkey)) as url, ClientSession(url) as client:
        yield client


@dataclass
class Half:
    """An answer that is held up in the middle, with a reader who has what is there."""

    worker: WorkerProcess
    """Who generates it; the other one is idle."""
    services: list[Service]
    reader: Reader
    watching: asyncio.Task[list[Event]]
    """Ends with the stream, with all its events."""


@asynccontextmanager
async def half_written(
    engine: AsyncEngine, redis: MeshRedis, fake: FakeModelServer, start_worker: StartWorker, api: ClientSession
) -> AsyncIterator[Half]:
    async with AsyncExitStack() as stack:
        starting = (stack.enter_async_context(service_process(fake.url)) for _ in range(2))
        services = await asyncio.gather(*starting)
        targets = ",".join(f"127.0.0.1:{service.port}" for service in services)
        workers = [start_worker(ASKMESH_LLM_TARGETS=targets) for _ in range(2)]
        await asyncio.gather(*(worker.ready() for worker in workers))
        watching = asyncio.create_task(watch(api, await ask_api(api, QUESTION)))
        stack.callback(watching.cancel)
        answer_id = (await row(engine)).id
        reader = await stack.enter_async_context(reading(redis, answer_id))
        await eventually(lambda: reader.text.decode() == BEGINNING, "half of the answer is read", seconds=60)
        async with engine.connect() as connection:
            holder = "SELECT name FROM workers JOIN answers ON holder = workers.id"
            name: str = (await connection.execute(text(holder))).scalar_one()
        (worker,) = (worker for worker in workers if worker.pid == int(name.rsplit(maxsplit=1)[-1]))
        yield Half(worker, services, reader, watching)
        await asyncio.wait_for(asyncio.shield(watching), 60)


async def test_a_killed_worker(
    engine: AsyncEngine, redis: MeshRedis, fake: FakeModelServer, start_worker: StartWorker, api: ClientSession
) -> None:
    async with half_written(engine, redis, fake, start_worker, api) as half:
        half.worker.send(signal.SIGKILL)
        answer = await until_answered(engine, fake)

    assert half.reader.text.decode() == answer.text == WHOLE
    check_events(half.watching.result())
    assert (answer.attempt, answer.losses, answer.epoch, half.reader.restarts) == (2, 1, 0, 0)
    first, second = (body["messages"] for body in fake.bodies)
    assert second == [*first, {"role": "assistant", "content": BEGINNING}]
    # Nothing is written twice, and what is read again is booked apart.
    assert answer.completion_tokens == 40
    assert answer.prompt_tokens == sum(4 + len(message["content"].split()) for message in first)
    assert answer.repeated_tokens == sum(4 + len(message["content"].split()) for message in second)
    assert fake.bodies[1]["max_tokens"] == fake.bodies[0]["max_tokens"] - HALF


async def test_a_killed_llm_service(
    engine: AsyncEngine, redis: MeshRedis, fake: FakeModelServer, start_worker: StartWorker, api: ClientSession
) -> None:
    async with half_written(engine, redis, fake, start_worker, api) as half:
        port = int(fake.url.removesuffix("/v1").rpartition(":")[2])
        (holder,) = (
            service
            for service in half.services
            if any(
                connection.raddr and connection.raddr.port == port
                for connection in psutil.Process(service.process.pid).net_connections()
            )
        )
        holder.tell(signal.SIGKILL)
        answer = await until_answered(engine, fake)

    assert half.reader.text.decode() == answer.text == WHOLE
    check_events(half.watching.result())
    # It had gone on for long enough not to be blamed.
    assert (answer.attempt, answer.interruptions, answer.epoch, half.reader.restarts) == (2, 0, 0, 0)
    assert answer.completion_tokens == 40
    assert fake.bodies[-1]["messages"][-1] == {"role": "assistant", "content": BEGINNING}
