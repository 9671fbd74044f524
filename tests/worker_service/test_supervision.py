"""A worker of which a part breaks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import (
    DatabaseSettings,
    GenerationSettings,
    LlmClientSettings,
    ProcessSettings,
    QuestionSettings,
    RedisSettings,
    WorkerSettings,
    load,
)
from tests.worker_service.asking import ask, states
from tests.worker_service.waiting import eventually
from worker_service.runtime import Runtime, RuntimeSettings
from worker_service.waking.wakeups import take_wakeups


@asynccontextmanager
async def running(on_defect: Callable[[], None]) -> AsyncIterator[Runtime]:
    """What a worker holds, in this process."""
    settings = RuntimeSettings(
        database=load(DatabaseSettings),
        redis=load(RedisSettings),
        llm=load(LlmClientSettings),
        generation=load(GenerationSettings),
        questions=load(QuestionSettings),
        worker=load(WorkerSettings),
        process=load(ProcessSettings),
    )
    running = Runtime(settings, on_defect)
    running.start()
    try:
        yield running
    finally:
        running.hurry()
        await running.close()


@pytest.fixture(autouse=True)
def _surroundings(worker_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in worker_settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("foundation.background._PAUSE_SECONDS", 0.01)


def breaking(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the part that takes wake-ups break so often."""
    works: Callable[..., Awaitable[None]] = take_wakeups
    starts = 0

    async def breaks(*arguments: object) -> None:
        nonlocal starts
        starts += 1
        if starts <= times:
            raise KeyError("a defect")
        await works(*arguments)

    monkeypatch.setattr("worker_service.runtime.take_wakeups", breaks)


async def test_a_part_that_breaks_is_started_again_and_the_worker_answers_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaking(monkeypatch, 2)
    defects: list[str] = []
    async with running(lambda: defects.append("the process is of no use")):
        await eventually(lambda: caplog.text.count("taking wake-ups broke: KeyError") == 2, "it has broken twice")
        await ask(engine, "a question")

        async def is_answered() -> bool:
            return (await states(engine))["completed"] == 1

        await eventually(is_answered, "the question is answered")
    assert defects == []


async def test_a_part_that_always_breaks_ends_the_process(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    del engine
    breaking(monkeypatch, 1_000)
    broken = asyncio.Event()
    async with running(broken.set):
        await asyncio.wait_for(broken.wait(), 60)
