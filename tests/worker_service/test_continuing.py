"""An answer whose first attempt broke off is continued and not begun again, wherever that can be."""

import asyncio
import os
import signal
from typing import Any

import grpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.answer_stream import ReadPosition, RunningUsage, TextAppend, append, open_text, read_texts
from questions import worker_leases
from questions.claims import Claim
from questions.states import FinishReason
from tests.servers import redis_at
from tests.worker_service.asking import answers, ask
from tests.worker_service.fake_llm_service import Context, FakeLlmService, answer_to
from tests.worker_service.in_process import Worker, refuse_with, working
from tests.worker_service.waiting import eventually

QUESTION = "What is the capital of France?"
ANSWER = answer_to(QUESTION)


async def break_off(
    worker: Worker, redis: MeshRedis, text: str, usage: RunningUsage, finish: FinishReason | None = None
) -> Claim:
    """Ask; a first attempt writes this into Redis, and then its worker gives it back."""
    await ask(worker.engine, QUESTION)
    claim = await worker.claim()
    await open_text(redis, claim.answer_id, claim.token, claim.epoch, create=True)
    replies = await append(redis, [TextAppend(claim.answer_id, claim.token, 0, text.encode(), usage, finish)])
    assert replies == [0]
    worker.dispatcher.give_back(claim)
    assert worker.lease.worker_id is not None
    await worker_leases.hand_back_all_but(worker.engine, worker.lease.worker_id, ())
    return claim


async def answer_again(worker: Worker) -> Any:
    claim = await worker.claim()
    assert claim.attempt == 2
    await worker.runner.answer(claim)
    worker.dispatcher.give_back(claim)
    return (await answers(worker.engine))[QUESTION]


async def test_the_next_attempt_gets_the_text_and_what_is_left_of_the_limit(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    await break_off(worker, redis, "Answer to What", RunningUsage(prompt_tokens=6, completion_tokens=3, pieces=3))

    row = await answer_again(worker)

    assert (row.state, row.text, row.epoch) == ("completed", ANSWER, 0)
    assert llm.specs[-1].answer_prefix == "Answer to What"
    assert llm.specs[-1].max_output_tokens == 512 - 3
    # The fake counts the question's words as the prompt, and the words of this call.
    assert (row.prompt_tokens, row.completion_tokens, row.repeated_tokens) == (6, 8, 6)


async def test_readers_see_one_text(worker: Worker, redis: MeshRedis) -> None:
    claim = await break_off(
        worker, redis, "Answer to What", RunningUsage(prompt_tokens=6, completion_tokens=3, pieces=3)
    )

    await answer_again(worker)

    (reading,) = await read_texts(redis, [ReadPosition(claim.answer_id, 0, len("Answer"))])
    assert reading is not None
    assert (reading.epoch, reading.text.decode(), reading.finished) == (0, ANSWER.removeprefix("Answer"), True)


async def test_a_finish_entry_saves_the_generation(worker: Worker, llm: FakeLlmService, redis: MeshRedis) -> None:
    await break_off(
        worker,
        redis,
        ANSWER,
        RunningUsage(prompt_tokens=6, completion_tokens=8, cached_prompt_tokens=2, repeated_tokens=1, pieces=8),
        FinishReason.OUTPUT_LIMIT,
    )

    row = await answer_again(worker)

    assert llm.asked.total() == 0
    assert (row.state, row.finish_reason, row.text) == ("incomplete", "output_limit", ANSWER)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_prompt_tokens, row.repeated_tokens) == (6, 8, 2, 1)


async def test_a_limit_that_is_used_up_ends_the_answer(worker: Worker, llm: FakeLlmService, redis: MeshRedis) -> None:
    await break_off(worker, redis, "Answer", RunningUsage(prompt_tokens=6, completion_tokens=512, pieces=512))

    row = await answer_again(worker)

    assert llm.asked.total() == 0
    assert (row.state, row.finish_reason, row.text) == ("incomplete", "output_limit", "Answer")


async def test_a_prefix_that_does_not_fit_ends_the_answer(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    await break_off(worker, redis, "Answer to", RunningUsage(prompt_tokens=6, completion_tokens=2, pieces=2))
    llm.before = refuse_with(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")

    row = await answer_again(worker)

    assert (row.state, row.finish_reason, row.text) == ("incomplete", "output_limit", "Answer to")
    assert (row.prompt_tokens, row.completion_tokens) == (6, 2)


async def test_where_the_server_cannot_continue_the_text_is_taken_back(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    claim = await break_off(
        worker, redis, "Another answer", RunningUsage(prompt_tokens=6, completion_tokens=2, pieces=2)
    )
    refuse = refuse_with(grpc.StatusCode.FAILED_PRECONDITION, "CANNOT_CONTINUE")

    async def refuse_a_prefix(question: str, context: Context) -> None:
        if llm.specs[-1].answer_prefix:
            await refuse(question, context)

    llm.before = refuse_a_prefix

    row = await answer_again(worker)

    assert [spec.answer_prefix for spec in llm.specs] == ["Another answer", ""]
    assert (row.state, row.text, row.epoch, row.attempt) == ("completed", ANSWER, 1, 2)
    assert (row.prompt_tokens, row.completion_tokens, row.repeated_tokens) == (6, 8, 6 + 2)
    (reading,) = await read_texts(redis, [ReadPosition(claim.answer_id, 0, 14)])
    assert reading is not None
    assert (reading.epoch, reading.offset, reading.text.decode()) == (1, 0, ANSWER)


async def test_where_redis_lost_the_text_it_is_taken_back(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    await break_off(worker, redis, "Answer to What", RunningUsage(prompt_tokens=6, completion_tokens=3, pieces=3))
    await redis.flushall()

    row = await answer_again(worker)

    assert llm.specs[-1].answer_prefix == ""
    assert (row.state, row.text, row.epoch) == ("completed", ANSWER, 1)


async def test_an_attempt_that_gave_nothing_out_takes_nothing_back(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    llm.before = refuse_with(grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_UNAVAILABLE")
    waiting = await worker.answer(QUESTION)
    llm.before = None
    assert waiting.state == "queued"
    await make_due(worker.engine)

    row = await answer_again(worker)

    assert (row.state, row.text, row.epoch, row.waits) == ("completed", ANSWER, 0, 1)


async def make_due(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET due_at = NULL"))


async def test_what_breaks_off_is_continued_from_all_that_was_written(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    llm.after = refuse_with(grpc.StatusCode.UNAVAILABLE, "GENERATION_INTERRUPTED", engine_started=True)
    broken = await worker.answer(QUESTION)
    assert broken.interruptions == 1
    llm.after = None
    await make_due(worker.engine)

    row = await answer_again(worker)

    assert llm.specs[-1].answer_prefix == "Answer"
    assert (row.state, row.text, row.epoch) == ("completed", ANSWER, 0)


async def test_a_claim_that_is_not_current_takes_nothing_back(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    await break_off(worker, redis, "Answer", RunningUsage())
    await redis.flushall()
    stale = await worker.claim()
    worker.dispatcher.give_back(stale)
    assert worker.lease.worker_id is not None
    await worker_leases.hand_back_all_but(worker.engine, worker.lease.worker_id, ())
    current = await worker.claim()

    await worker.runner.answer(stale)

    row = (await answers(worker.engine))[QUESTION]
    assert (row.epoch, row.token, row.state) == (0, current.token, "in_progress")
    assert llm.asked.total() == 0


async def test_a_redis_that_is_flushed_in_mid_answer_is_given_all_of_it_again(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    llm.flowing.clear()
    answering = asyncio.create_task(worker.answer(QUESTION))
    await eventually(lambda: llm.running == 1, "the answer is being written")
    await until_text(worker.engine, redis, "Answer")

    await redis.flushall()
    llm.flowing.set()
    row = await answering

    assert (row.state, row.text, row.epoch, row.attempt) == ("completed", ANSWER, 0, 1)


async def test_a_text_that_redis_lost_is_back_after_a_renewal_of_the_lease(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    """The fixture's heartbeat takes an hour: the renewal is asked for."""
    waiting = asyncio.Event()

    async def lose_the_text(_question: str, _context: Context) -> None:
        await until_text(worker.engine, redis, "Answer")
        await redis.flushall()
        waiting.set()

    llm.after = lose_the_text
    await ask(worker.engine, QUESTION)
    claim = await worker.claim()
    llm.pause_before_last = asyncio.Event()
    answering = asyncio.create_task(worker.runner.answer(claim))
    await asyncio.wait_for(waiting.wait(), 30)
    await until_text(worker.engine, redis, ANSWER.rpartition(" ")[0])
    llm.pause_before_last.set()
    await asyncio.wait_for(answering, 30)

    await until_text(worker.engine, redis, ANSWER)
    assert (await answers(worker.engine))[QUESTION].epoch == 0


async def until_text(engine: AsyncEngine, redis: MeshRedis, expected: str) -> None:
    answer_id = (await answers(engine))[QUESTION].id

    async def is_there() -> bool:
        (reading,) = await read_texts(redis, [ReadPosition(answer_id, 0, 0)])
        return reading is not None and reading.text.decode() == expected

    await eventually(is_there, f"Redis has {expected!r}")


async def test_a_redis_that_dies_in_mid_answer_changes_nothing(
    engine: AsyncEngine, llm: FakeLlmService, own_valkey: Valkey
) -> None:
    redis = redis_at(own_valkey.url())
    llm.flowing.clear()
    async with working(engine, llm.address, redis) as worker:
        answering = asyncio.create_task(worker.answer(QUESTION))
        await eventually(lambda: llm.running == 1, "the answer is being written")
        own_valkey.kill()
        llm.flowing.set()
        row = await answering
    await redis.aclose()
    assert (row.state, row.text, row.epoch, row.attempt) == ("completed", ANSWER, 0, 1)


async def test_a_redis_that_hangs_holds_no_answer_up_for_long(
    engine: AsyncEngine, llm: FakeLlmService, own_valkey: Valkey
) -> None:
    redis = redis_at(own_valkey.url())
    async with working(engine, llm.address, redis) as worker:
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                row = await worker.answer(QUESTION)
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
    await redis.aclose()
    assert (row.state, row.text) == ("completed", ANSWER)
