"""The ledger against what the fake model server has counted, by way of a real llm_service."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from owners.ledger import UsageTotals, read_days
from questions.cancelling import cancel
from questions.claims import Claim
from questions.requests import request_for
from tests.fakes.model_server import FakeModelServer, Options
from tests.worker_service.asking import ask
from tests.worker_service.in_process import Worker, working
from tests.worker_service.waiting import eventually


@pytest.fixture
async def fake() -> AsyncIterator[FakeModelServer]:
    async with FakeModelServer(Options()) as server:
        yield server


@pytest.fixture
async def counting_worker(engine: AsyncEngine, fake: FakeModelServer, redis: MeshRedis) -> AsyncIterator[Worker]:
    settings = LlmServiceSettings(llm_port=0, model_url=fake.url)
    async with (
        LlmServer(settings, GenerationSettings()) as server,
        working(engine, f"127.0.0.1:{server.port}", redis) as worker,
    ):
        yield worker


async def spent(engine: AsyncEngine) -> UsageTotals:
    today = datetime.now(UTC).date()
    return sum((await read_days(engine, "tests", today - timedelta(days=1), today)).values(), start=UsageTotals())


def prompt_tokens(question: str) -> int:
    """As the fake counts them."""
    messages = request_for(question, GenerationSettings()).messages
    return sum(4 + len(message.content.split()) for message in messages)


async def begin(counting_worker: Worker, question: str) -> tuple[int, Claim, asyncio.Task[None]]:
    question_id = await ask(counting_worker.engine, question)
    claim = await counting_worker.claim()
    return question_id, claim, asyncio.create_task(counting_worker.runner.answer(claim))


def received(counting_worker: Worker, tokens: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return any(
            running.text is not None and running.text.usage.written_tokens >= tokens
            for running in counting_worker.runner._running
        )

    return condition


async def test_finished_answers_are_booked_as_the_server_counted(
    counting_worker: Worker, fake: FakeModelServer
) -> None:
    questions = [f"Question {number}? [[tokens={number + 3}]]" for number in range(5)]
    for question in questions:
        assert (await counting_worker.answer(question)).state == "completed"
    assert fake.counts.tokens_written == sum(range(3, 8))
    assert await spent(counting_worker.engine) == UsageTotals(
        requests=5, prompt_tokens=sum(map(prompt_tokens, questions)), completion_tokens=fake.counts.tokens_written
    )


async def test_a_cancelled_answer_is_booked_up_to_the_last_count(
    counting_worker: Worker, fake: FakeModelServer
) -> None:
    question = "A long one? [[tokens=50 hold=10]]"
    question_id, claim, answering = await begin(counting_worker, question)
    await eventually(received(counting_worker, 10), "ten tokens")
    assert await cancel(counting_worker.engine, "tests", question_id) == claim.answer_id
    counting_worker.runner.stop_answer(claim.answer_id)
    await answering
    assert fake.counts.tokens_written == 10
    assert await spent(counting_worker.engine) == UsageTotals(
        requests=1, prompt_tokens=prompt_tokens(question), completion_tokens=10
    )


async def test_an_answer_erased_while_it_is_written_is_paid_for(counting_worker: Worker, fake: FakeModelServer) -> None:
    question = "A long one? [[tokens=50 hold=10]]"
    _, claim, answering = await begin(counting_worker, question)
    await eventually(received(counting_worker, 10), "ten tokens")
    async with counting_worker.engine.begin() as connection:
        await connection.execute(text("DELETE FROM questions"))
        await connection.execute(text("DELETE FROM answers"))
    counting_worker.runner.stop_answer(claim.answer_id)
    await answering
    assert await spent(counting_worker.engine) == UsageTotals(
        requests=1, prompt_tokens=prompt_tokens(question), completion_tokens=fake.counts.tokens_written
    )


async def test_an_answer_that_broke_off_and_was_cancelled_then_is_booked(
    counting_worker: Worker, fake: FakeModelServer
) -> None:
    question = "A broken one? [[tokens=50 fault=error at=10]]"
    question_id, _, answering = await begin(counting_worker, question)
    await answering
    assert await cancel(counting_worker.engine, "tests", question_id) is not None
    assert fake.counts.tokens_written == 10
    assert await spent(counting_worker.engine) == UsageTotals(
        requests=1, prompt_tokens=prompt_tokens(question), completion_tokens=10
    )


@pytest.mark.parametrize("redis_forgets", [False, True])
async def test_an_answer_that_broke_off_is_booked_once_with_what_was_repeated(
    counting_worker: Worker, fake: FakeModelServer, redis: MeshRedis, redis_forgets: bool
) -> None:
    question = "A broken one? [[tokens=50 fault=error at=10 times=1]]"
    _, claim, answering = await begin(counting_worker, question)
    await answering
    counting_worker.dispatcher.give_back(claim)
    if redis_forgets:
        await redis.flushdb()
    async with counting_worker.engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET due_at = NULL"))
    await counting_worker.runner.answer(await counting_worker.claim())
    once = prompt_tokens(question)
    booked = await spent(counting_worker.engine)
    assert fake.counts.completed == 1
    # What the fake read of a continuation is the prompt and the answer's beginning, counted as a third message.
    again = booked.repeated_tokens
    assert (booked.requests, booked.prompt_tokens, booked.completion_tokens) == (1, once, 50)
    if redis_forgets:
        assert fake.counts.tokens_written == 60
        assert again == once + 10
    else:
        assert fake.counts.tokens_written == 50
        assert again == once + 4 + 10


async def test_an_answer_that_an_overload_broke_off_waits_and_is_booked(
    counting_worker: Worker, fake: FakeModelServer
) -> None:
    question = "Why? [[tokens=10 fault=error code=429 at=4 times=1 delay=0.001]]"
    row = await counting_worker.answer(question)
    assert (row.state, row.waits, row.interruptions) == ("queued", 1, 0)
    assert await spent(counting_worker.engine) == UsageTotals(
        requests=1, prompt_tokens=prompt_tokens(question), completion_tokens=4
    )
