"""What another release or another program has written to Redis: passed over, or read as far as it goes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from inspect import signature
from typing import cast

import orjson
import pytest
from celery import Celery

from foundation.redis import MeshRedis
from live.answer_cache import AnswerCache
from live.answer_stream import (
    ReadPosition,
    Refusal,
    RunningUsage,
    StoredText,
    TextAppend,
    TextChunk,
    TextSnapshot,
    append,
    close_texts,
    open_text,
    parse_ids,
    put_texts,
    read_texts,
)
from live.hints import TASK
from live.signals import Subscriber
from live.wakeups import Wakeups, next_wakeup
from owners.token_counts import TokenCounts
from questions.reading import Question
from questions.states import FinishReason, State
from tests.live.test_signals import Notes
from worker_service.claiming.slots import Slots
from worker_service.waking.loop_thread import LoopThread
from worker_service.waking.tasks import add_tasks

RUBBISH = [
    b"",
    b"hello",
    b"1:2",
    b"-1",
    b"1.5",
    b"\xff\xfe",
    b'{"id": 1}',
    b"9" * 5_000,
    b"0x10",
    b"nan",
    b"1 2",
    b"\0",
]
USAGE = RunningUsage(prompt_tokens=5, completion_tokens=3, pieces=3)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (orjson.dumps(USAGE), USAGE),
        (
            orjson.dumps({**asdict(USAGE), "tokens_of_a_later_release": 7, "by_model": {"a": 1}}),
            USAGE,
        ),  # a newer release
        (b'{"prompt_tokens": 5}', RunningUsage(prompt_tokens=5)),  # an older one
        (b"{}", RunningUsage()),
        (b'{"prompt_tokens": "5", "completion_tokens": -1, "pieces": true, "repeated_tokens": null}', RunningUsage()),
        *((rubbish, RunningUsage()) for rubbish in RUBBISH),
        (b"[1]", RunningUsage()),
    ],
)
def test_usage_of_another_release_is_read_as_far_as_it_goes(stored: bytes, expected: RunningUsage) -> None:
    assert RunningUsage.read(stored) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"1", ([1], 0)),
        (b"1,22,333", ([1, 22, 333], 0)),
        (b"1,x,3", ([1, 3], 1)),
        (b"1;v=2,3", ([3], 1)),
        *((rubbish, ([], 1)) for rubbish in RUBBISH),
    ],
)
def test_ids_that_can_be_read_are(message: bytes, expected: tuple[list[int], int]) -> None:
    assert parse_ids(message) == expected


@pytest.mark.parametrize("message", [*RUBBISH, b"0:x:text", b"-1:0:text", b"0:0:\xff", b"0:0:\xe2\x82", b"v2:0:0:text"])
def test_a_chunk_of_another_shape_is_none(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        TextChunk.parse(message)


async def test_messages_that_cannot_be_read_are_skipped_and_counted_and_the_next_is_heard(
    redis: MeshRedis, caplog: pytest.LogCaptureFixture
) -> None:
    class Reader(Notes):
        def heard(self, channel: str, data: bytes) -> None:
            super().heard(channel, b"%d" % TextChunk.parse(data).offset)

    notes = Reader()
    subscriber = Subscriber(redis, notes, "text:1")
    listening = asyncio.create_task(subscriber.run())
    await notes.until(("listening", "text:1"))
    for rubbish in RUBBISH:
        await redis.publish(redis.name("text", 1), rubbish)
    await redis.publish(redis.name("text", 1), b"0:7:a")
    assert await notes.next() == ("text:1", b"7")
    assert redis.mesh.unreadable.skipped == {"a message on text": len(RUBBISH)}
    assert [record.getMessage().rpartition(",")[2] for record in caplog.records] == [" 1 so far", " 10 so far"]
    assert not listening.done()
    listening.cancel()
    await asyncio.wait({listening})


Spoil = Callable[[MeshRedis, str], Awaitable[object]]
OTHER_TYPES: dict[str, Spoil] = {
    "a string": lambda redis, key: redis.set(key, "hello"),
    "a list": lambda redis, key: redis.rpush(key, "hello"),
    "a set": lambda redis, key: redis.sadd(key, "hello"),
    "a sorted set": lambda redis, key: redis.zadd(key, {"hello": 1}),
    "a hash": lambda redis, key: redis.hset(key, "hello", "world"),
    "a hash without numbers": lambda redis, key: redis.hset(
        key, mapping={"token": "new", "epoch": "x", "length": "y", "usage": "z"}
    ),
    "a stream": lambda redis, key: redis.xadd(key, {"hello": "world"}),
}


async def spoil(redis: MeshRedis, kind: str, *parts: object) -> str:
    key = redis.name(*parts)
    await redis.delete(key)
    await OTHER_TYPES[kind](redis, key)
    return key


@pytest.mark.parametrize("which", [("answer", 1), ("answer", 1, "text")])
@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_a_text_of_another_type_counts_as_missing_and_costs_the_others_nothing(
    redis: MeshRedis, kind: str, which: tuple[object]
) -> None:
    usage = RunningUsage()

    async def both() -> list[int | Refusal]:
        return await append(redis, [TextAppend(number, 10, 3, b"d", usage) for number in (1, 2)])

    await put_texts(redis, [TextSnapshot(number, 10, 0, b"abc", usage) for number in (1, 2)])
    await spoil(redis, kind, *which)
    assert await both() == [Refusal.MISSING, 0]
    readings = await read_texts(redis, [ReadPosition(1, 0, 0), ReadPosition(2, 0, 0)])
    assert readings[0] is None
    assert readings[1] is not None
    assert readings[1].text == b"abcd"
    assert await open_text(redis, 1, 11, 0, create=False) is None
    await put_texts(redis, [TextSnapshot(1, 11, 0, b"abc", usage, confirmed=True)])
    assert await open_text(redis, 1, 12, 0, create=False) == StoredText("abc", usage, None)
    await spoil(redis, kind, *which)
    await close_texts(redis, [1, 2])
    assert (await read_texts(redis, [ReadPosition(1, 0, 0)])) == [None]
    assert all([await redis.ttl(key) > 0 for key in await redis.keys(redis.name("answer", "*"))])


@pytest.mark.parametrize("finish", ["boredom", "v2"])
async def test_a_text_that_ended_for_a_reason_of_a_later_release_is_begun_anew(redis: MeshRedis, finish: str) -> None:
    await put_texts(redis, [TextSnapshot(1, 10, 0, b"abc", RunningUsage(), FinishReason.STOP)])
    await redis.hset(redis.name("answer", 1), "finish", finish)
    assert await open_text(redis, 1, 11, 0, create=False) is None
    assert redis.mesh.unreadable.skipped == {"a stored text": 1}


async def test_a_text_that_is_no_text_is_begun_anew(redis: MeshRedis) -> None:
    await put_texts(redis, [TextSnapshot(1, 10, 0, b"\xff\xfe", RunningUsage())])
    assert await open_text(redis, 1, 11, 0, create=False) is None


async def test_fields_that_a_later_release_adds_to_a_text_are_left_alone(redis: MeshRedis) -> None:
    await put_texts(redis, [TextSnapshot(1, 10, 0, b"abc", USAGE)])
    newer = orjson.dumps({**asdict(USAGE), "tokens_of_a_later_release": 7})
    await redis.hset(redis.name("answer", 1), mapping={"usage": newer, "items": "2"})
    assert await open_text(redis, 1, 11, 0, create=False) == StoredText("abc", USAGE, None)
    assert await append(redis, [TextAppend(1, 11, 3, b"d", USAGE)]) == [0]


@pytest.mark.parametrize("kind", sorted(OTHER_TYPES.keys() - {"a list"}))
async def test_wake_ups_go_on_where_their_key_held_another_type(redis: MeshRedis, kind: str) -> None:
    await spoil(redis, kind, "wakeups")
    assert await next_wakeup(redis) == 0
    await redis.rpush(redis.name("wakeups"), 3)
    assert await next_wakeup(redis) == 3
    assert redis.mesh.unreadable.skipped == {"a wake-up": 1}
    assert redis.mesh.outage.reachable


@pytest.mark.parametrize("rubbish", RUBBISH)
async def test_a_wake_up_that_is_no_number_wakes_nobody(redis: MeshRedis, rubbish: bytes) -> None:
    await redis.rpush(redis.name("wakeups"), rubbish, 2)
    assert await next_wakeup(redis) == 0
    assert await next_wakeup(redis) == 2


async def test_who_wakes_is_not_stopped_by_a_key_of_another_type(redis: MeshRedis) -> None:
    await spoil(redis, "a hash", "wakeups")
    wakeups = Wakeups(redis)
    waking = asyncio.create_task(wakeups.run())
    async with asyncio.timeout(30):
        while not wakeups.reachable:
            wakeups.wake()
            await asyncio.sleep(0.01)
    assert await next_wakeup(redis) >= 1
    waking.cancel()
    await asyncio.wait({waking})


@pytest.mark.parametrize("stored", [*RUBBISH, b"[]", b'{"id": 1, "owner": "o"}', b'{"state": "done"}', b"null"])
async def test_a_copy_of_an_answer_that_cannot_be_read_is_a_miss(
    redis: MeshRedis, stored: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.set(redis.name("question", 2, 1), stored)
    assert await AnswerCache(redis).get("o", 1) is None
    assert redis.mesh.outage.reachable
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(stored)


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_a_copy_of_another_type_is_a_miss_and_gone(redis: MeshRedis, kind: str) -> None:
    key = await spoil(redis, kind, "question", 2, 1)
    assert await AnswerCache(redis).get("o", 1) is None
    assert redis.mesh.outage.reachable
    assert kind == "a string" or not await redis.exists(key)


QUESTION = Question(
    id=1,
    answer_id=2,
    owner="o",
    language="en",
    state=State.COMPLETED,
    epoch=0,
    text="because",
    written_by="small@1",
    finish_reason=FinishReason.STOP,
    error_reason=None,
    usage=TokenCounts(prompt_tokens=5, completion_tokens=3),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    finished_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
    replayed_as=None,
)
COPY = {name: value for name, value in asdict(QUESTION).items() if name != "usage"} | {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "cached_prompt_tokens": None,
}
"""As the release stores it that kept the counts side by side, and reads no field more and none less."""


async def test_a_copy_is_read_by_the_release_before(redis: MeshRedis) -> None:
    await AnswerCache(redis).put(replace(QUESTION, usage=replace(QUESTION.usage, repeated_tokens=7)))
    stored = await redis.get(redis.name("question", 2, 1))
    assert stored is not None
    assert orjson.loads(stored) == orjson.loads(orjson.dumps(COPY))


@pytest.mark.parametrize("more", [{}, {"repeated_tokens": 0, "tokens_of_a_later_release": 7, "tools": ["search"]}])
async def test_a_copy_of_another_release_is_read_as_far_as_it_goes(redis: MeshRedis, more: dict[str, object]) -> None:
    await redis.set(redis.name("question", 2, 1), orjson.dumps(COPY | more))
    assert await AnswerCache(redis).get("o", 1) == QUESTION
    assert not redis.mesh.unreadable.skipped


@pytest.mark.parametrize("name", sorted(COPY.keys() - {"prompt_tokens", "completion_tokens", "cached_prompt_tokens"}))
async def test_a_copy_that_lacks_a_field_is_a_miss(redis: MeshRedis, name: str) -> None:
    await redis.set(redis.name("question", 2, 1), orjson.dumps({key: COPY[key] for key in COPY.keys() - {name}}))
    assert await AnswerCache(redis).get("o", 1) is None


class Tasks:
    """Stands for a Celery app, whose tasks are for all apps of a process."""

    def __init__(self) -> None:
        self.by_name: dict[str, Callable[..., object]] = {}

    def task(self, *, name: str, **_: object) -> Callable[[Callable[..., object]], None]:
        return partial(self.by_name.__setitem__, name)


@pytest.mark.parametrize("arguments", [(), (3,), (3, {"model": "small"})])
def test_a_hint_of_another_release_is_a_hint(arguments: tuple[object, ...]) -> None:
    tasks = Tasks()
    add_tasks(cast(Celery, tasks), cast(Slots, None), cast(LoopThread, None))
    signature(tasks.by_name[TASK]).bind(*arguments, urgent=True)
