"""What ends an answer that the model server does not end: too much text, its deadline, what cannot be stored."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from askmesh.llm.v1 import generation_pb2 as pb
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from live.answer_stream import ReadPosition, read_texts
from owners.token_counts import TokenCounts
from questions import claims
from questions.claims import Claim, GenerationResult
from tests.worker_service.asking import answers, ask, states
from tests.worker_service.fake_llm_service import FakeLlmService, answer_to
from tests.worker_service.in_process import Worker
from tests.worker_service.waiting import eventually
from worker_service.answering import text_publisher

CAP = 512 * 32 + 4_096


@pytest.mark.parametrize("flood", ["x" * 60_000, " word", "\N{GRINNING FACE}" * 2_000, " " * 10_000, "\n"])
async def test_a_flood_ends_at_the_limit_of_an_answer(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis, flood: str
) -> None:
    llm.flood = flood
    row = await worker.answer("endless")

    assert (row.state, row.finish_reason) == ("incomplete", "output_limit")
    assert CAP - 4 < len(row.text.encode()) <= CAP
    assert row.text.startswith("Answer" + flood[:10])
    await eventually(lambda: llm.aborted["endless"] == 1, "the call is ended")
    (reading,) = await read_texts(redis, [ReadPosition(row.id, 0, 0)])
    assert reading is not None
    assert reading.length <= CAP


async def test_a_continued_flood_ends_there_as_well(worker: Worker, llm: FakeLlmService) -> None:
    llm.flood = "x" * 1_000
    row = await worker.answer("endless")
    async with worker.engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET state = 'queued', text = NULL, finished_at = NULL"))
    again = await worker.claim()
    assert again.attempt == 2
    await worker.runner.answer(again)

    assert (await answers(worker.engine))["endless"].text == row.text


async def test_long_texts_come_to_redis_in_several_calls(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    for name in ("append", "put_texts"):
        monkeypatch.setattr(text_publisher, name, _noting(getattr(text_publisher, name), sent))
    monkeypatch.setattr(text_publisher, "_BYTES_A_TEXT", 1_000)
    monkeypatch.setattr(text_publisher, "_BYTES_A_CALL", 3_000)
    llm.pause_before_last = asyncio.Event()
    question = "\N{GRINNING FACE}" * 2_000 + " end"
    for _ in range(8):
        await ask(worker.engine, question)
    worker.slots.start(8)
    async with worker.engine.connect() as connection:
        ids = list((await connection.execute(text("SELECT id FROM answers"))).scalars())

    async def all_there() -> bool:
        readings = await read_texts(redis, [ReadPosition(answer_id, 0, 0) for answer_id in ids])
        return {reading and reading.text.decode() for reading in readings} == {answer_to(question.removesuffix(" end"))}

    await eventually(all_there, "all of each text is there")
    assert max(sent) <= 3_000
    assert len(sent) >= 8 * 8_000 / 3_000
    llm.pause_before_last.set()
    await eventually(lambda: worker.slots.free == 8, "all are answered")


def _noting(call: Callable[..., Awaitable[Any]], sent: list[int]) -> Callable[..., Awaitable[Any]]:
    async def noting(redis: MeshRedis, several: Any) -> Any:
        sent.append(sum(len(one.text) for one in several))
        return await call(redis, several)

    return noting


@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens", "cached_prompt_tokens"])
@pytest.mark.parametrize("count", [2**31, 3_000_000_000, 2**32 - 1])
async def test_a_count_that_is_none_is_left_out(worker: Worker, llm: FakeLlmService, field: str, count: int) -> None:
    llm.usage = pb.Usage(prompt_tokens=3, completion_tokens=4)
    setattr(llm.usage, field, count)
    row = await worker.answer("question")

    assert (row.state, row.text) == ("completed", answer_to("question"))
    assert (row.prompt_tokens, row.completion_tokens) == (None, None)


async def test_the_largest_count_is_stored(worker: Worker, llm: FakeLlmService) -> None:
    llm.usage = pb.Usage(prompt_tokens=2**31 - 1, completion_tokens=2**31 - 1)
    row = await worker.answer("question")

    assert (row.state, row.prompt_tokens, row.completion_tokens) == ("completed", 2**31 - 1, 2**31 - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"usage": TokenCounts(prompt_tokens=2**31)},
        {"text": "\0"},
        {"state": "finished"},
        {"text": None},
        {"text": "\ud800"},
    ],
    ids=str,
)
async def test_an_outcome_that_postgresql_refuses_fails_with_a_reason(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    finish = claims.finish

    async def spoil(engine: AsyncEngine, claim: Claim, result: GenerationResult, reuse_seconds: float) -> bool:
        for name, value in change.items():
            object.__setattr__(result, name, value)
        return await finish(engine, claim, result, reuse_seconds)

    monkeypatch.setattr(claims, "finish", spoil)
    row = await worker.answer("a secret question")

    assert (row.state, row.error_reason) == ("failed", "not_storable")
    assert "cannot be stored" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("sqlstate", ["42703", "42501"])
async def test_a_schema_that_does_not_fit_fails_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, sqlstate: str
) -> None:
    class RefusedError(Exception):
        pass

    cause = RefusedError()
    cause.sqlstate = sqlstate  # type: ignore[attr-defined]

    refused = asyncio.Semaphore(0)
    finish = claims.finish

    async def refuse(*_: object) -> bool:
        refused.release()
        raise DBAPIError("UPDATE", {}, cause)

    monkeypatch.setattr(claims, "finish", refuse)
    answering = asyncio.create_task(worker.answer("question"))
    for _ in range(2):  # it is tried again
        await refused.acquire()
    assert await states(worker.engine) == {"in_progress": 1}

    monkeypatch.setattr(claims, "finish", finish)
    assert (await answering).state == "completed"


async def test_an_answer_ends_with_its_text_before_its_deadline(worker: Worker, llm: FakeLlmService) -> None:
    llm.flowing.clear()
    await ask(worker.engine, "question", max_wait_seconds=3)
    await asyncio.wait_for(worker.runner.answer(await worker.claim()), 30)

    row = (await answers(worker.engine))["question"]
    assert (row.state, row.finish_reason, row.text, row.reusable) == ("incomplete", "time_limit", "Answer", False)
    assert row.finished_at < row.next_deadline


async def test_an_answer_without_text_waits_for_some_and_then_ends(worker: Worker, llm: FakeLlmService) -> None:
    begin = asyncio.Event()

    async def hold(*_: object) -> None:
        await begin.wait()

    llm.before = hold
    llm.flowing.clear()
    await ask(worker.engine, "question", max_wait_seconds=1)
    answering = asyncio.create_task(worker.runner.answer(await worker.claim()))
    done, _ = await asyncio.wait({answering}, timeout=1.5)
    assert not done
    begin.set()
    await asyncio.wait_for(answering, 30)

    assert (await answers(worker.engine))["question"].text == "Answer"


async def test_it_goes_on_for_those_who_wait_for_longer(worker: Worker, llm: FakeLlmService) -> None:
    llm.flowing.clear()
    await ask(worker.engine, "question", max_wait_seconds=1)
    claim = await worker.claim()
    async with worker.engine.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO questions (owner, text, language, answer_id, deadline)
                VALUES ('patient', 'question', 'en', :answer_id, clock_timestamp() + interval '1 hour')
            """),
            {"answer_id": claim.answer_id},
        )
    answering = asyncio.create_task(worker.runner.answer(claim))
    done, _ = await asyncio.wait({answering}, timeout=2)
    assert not done
    llm.flowing.set()
    await asyncio.wait_for(answering, 30)

    assert (await worker_row(worker, claim)).state == "completed"


async def worker_row(worker: Worker, claim: Claim) -> Any:
    async with worker.engine.connect() as connection:
        return (await connection.execute(text("SELECT * FROM answers WHERE id = :id"), {"id": claim.answer_id})).one()
