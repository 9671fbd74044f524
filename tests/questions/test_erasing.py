import asyncio
from functools import partial

import pytest
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from live.answer_cache import AnswerCache, forget
from live.answer_stream import (
    ReadPosition,
    Refusal,
    RunningUsage,
    TextAppend,
    TextSnapshot,
    append,
    open_text,
    put_texts,
    read_texts,
)
from live.signals import publish_erased
from questions.claims import finish
from questions.erasing import Erased, erase
from questions.reading import read
from questions.states import State
from tests.questions.actors import OWNER, ask, claim_one, completed, rows, seen, worker
from tests.servers import redis_at


async def stored(engine: AsyncEngine) -> tuple[int, int]:
    (counts,) = await rows(engine, "SELECT (SELECT count(*) FROM questions) q, (SELECT count(*) FROM answers) a")
    return counts.q, counts.a


async def test_a_question_goes_with_its_answer_and_all_copies(engine: AsyncEngine, redis: MeshRedis) -> None:
    asked = await ask(engine, "why?", key=b"k")
    current = await claim_one(engine, await worker(engine))
    await open_text(redis, current.answer_id, current.token, 0, create=True)
    await append(redis, [TextAppend(current.answer_id, current.token, 0, b"because", RunningUsage())])
    assert await finish(engine, current, completed("because of a secret"), 60)
    question = await seen(engine, asked.question_id)
    cache = AnswerCache(redis)
    await cache.put(question)
    assert await cache.get(OWNER, asked.question_id) == question

    assert await erase(engine, "somebody else", asked.question_id, partial(forget, redis)) is None
    assert await erase(engine, OWNER, asked.question_id, partial(forget, redis)) == (Erased.ERASED, current.answer_id)
    assert await stored(engine) == (0, 0)
    await publish_erased(redis, [current.answer_id])
    assert await read(engine, OWNER, asked.question_id) is None
    assert await cache.get(OWNER, asked.question_id) is None
    await cache.put(question)  # by a reader who had read it before
    assert await cache.get(OWNER, asked.question_id) is None
    texts = [await redis.get(key) for key in await redis.keys("*") if await redis.type(key) == b"string"]
    assert set(texts) <= {b""}
    assert await erase(engine, OWNER, asked.question_id, partial(forget, redis)) is None
    again = await ask(engine, "why?", key=b"k", body=b"other")  # the key is free
    assert not again.replayed


async def test_an_answer_stays_for_those_who_share_it_and_for_nobody_new(engine: AsyncEngine, redis: MeshRedis) -> None:
    first = await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    assert await finish(engine, current, completed("because"), 60)
    second = await ask(engine, "why?")
    assert await erase(engine, OWNER, first.question_id, partial(forget, redis)) == (Erased.KEPT, None)
    assert (await seen(engine, second.question_id)).text == "because"
    third = await ask(engine, "why?")
    assert (await seen(engine, third.question_id)).state is State.QUEUED
    assert await erase(engine, OWNER, second.question_id, partial(forget, redis)) == (Erased.ERASED, current.answer_id)


async def test_nobody_generates_on_for_a_question_that_is_erased(engine: AsyncEngine, redis: MeshRedis) -> None:
    asked = await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    await open_text(redis, current.answer_id, current.token, 0, create=True)
    assert await erase(engine, OWNER, asked.question_id, partial(forget, redis)) == (Erased.ERASED, current.answer_id)
    piece = TextAppend(current.answer_id, current.token, 0, b"too late", RunningUsage())
    assert await append(redis, [piece]) == [Refusal.MISSING]
    await publish_erased(redis, [current.answer_id])
    assert await append(redis, [piece]) == [Refusal.FENCED]
    whole = TextSnapshot(current.answer_id, current.token, 0, b"too late", RunningUsage(), None, confirmed=True)
    assert await put_texts(redis, [whole]) == [Refusal.FENCED]
    (reading,) = await read_texts(redis, [ReadPosition(current.answer_id, 0, 0)])
    assert reading is not None
    assert reading.text == b""
    assert not await finish(engine, current, completed(), 60)


async def test_an_answer_ends_with_the_last_question_that_waits_for_it(engine: AsyncEngine, redis: MeshRedis) -> None:
    first, second = await ask(engine, "why?"), await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    await rows(
        engine,
        "UPDATE questions SET ended = 'cancelled', ended_at = now() WHERE id = :id RETURNING id",
        id=second.question_id,
    )
    assert await erase(engine, OWNER, first.question_id, partial(forget, redis)) == (Erased.KEPT, current.answer_id)
    assert (await seen(engine, second.question_id)).state is State.CANCELLED
    assert not await finish(engine, current, completed(), 60)
    assert await stored(engine) == (1, 1)


async def test_nothing_is_erased_while_a_copy_cannot_be(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    nowhere = redis_at("redis://127.0.0.1:1")
    with pytest.raises(RedisError):
        await erase(engine, OWNER, asked.question_id, partial(forget, nowhere))
    await nowhere.aclose()
    assert (await seen(engine, asked.question_id)).state is State.QUEUED


async def test_erasing_races_with_asking_and_answering(engine: AsyncEngine, redis: MeshRedis) -> None:
    mine = await worker(engine)
    for number in range(15):
        words = f"why {number}?"
        first = await ask(engine, words)
        current = await claim_one(engine, mine)
        results = await asyncio.gather(
            erase(engine, OWNER, first.question_id, partial(forget, redis)),
            erase(engine, OWNER, first.question_id, partial(forget, redis)),
            finish(engine, current, completed("because"), 60),
            ask(engine, words),
        )
        assert sum(one is not None for one in results[:2]) == 1
        second = await seen(engine, results[3].question_id)
        assert second.state in (State.QUEUED, State.IN_PROGRESS, State.COMPLETED)
        await erase(engine, OWNER, results[3].question_id, partial(forget, redis))
        assert await stored(engine) == (0, 0)
