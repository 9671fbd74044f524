"""The text of an answer in Redis, on a real server."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.redis import MeshRedis
from live.answer_stream import (
    FencedError,
    ReadPosition,
    Refusal,
    RunningUsage,
    StoredText,
    TextAppend,
    TextChunk,
    TextSlice,
    TextSnapshot,
    append,
    close_texts,
    open_text,
    put_texts,
    read_texts,
    text_channel,
)
from live.text_scripts import ENDED_SECONDS
from questions.states import FinishReason

NOTHING = RunningUsage()


async def say(redis: MeshRedis, token: int, offset: int, text: str, finish: FinishReason | None = None) -> object:
    usage = RunningUsage(prompt_tokens=5, completion_tokens=offset)
    (reply,) = await append(redis, [TextAppend(1, token, offset, text.encode(), usage, finish)])
    return reply


async def read(redis: MeshRedis, epoch: int = 0, offset: int = 0) -> TextSlice | None:
    (reading,) = await read_texts(redis, [ReadPosition(1, epoch, offset)])
    return reading


async def test_text_is_read_from_any_offset(redis: MeshRedis) -> None:
    assert await open_text(redis, 1, 10, 0, create=True) == StoredText("", NOTHING, None)
    assert [await say(redis, 10, 0, "grün"), await say(redis, 10, 5, "er")] == [0, 0]
    assert await read(redis, offset=2) == TextSlice(0, 2, "ün".encode() + b"er", 7, finished=False)
    assert await read(redis, offset=7) == TextSlice(0, 7, b"", 7, finished=False)
    ahead = await read(redis, offset=9)
    assert ahead == TextSlice(0, 9, b"", 7, finished=False)
    torn = await read(redis, offset=3)
    assert torn is not None
    assert torn.is_torn
    assert await read_texts(redis, [ReadPosition(2, 0, 0), ReadPosition(1, 0, 6)]) == [
        None,
        TextSlice(0, 6, b"r", 7, finished=False),
    ]


async def test_a_new_holder_seals_the_text_and_goes_on(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "one")
    assert await open_text(redis, 1, 11, 0, create=False) == StoredText(
        "one", RunningUsage(prompt_tokens=5, completion_tokens=0), None
    )
    assert await say(redis, 10, 3, " two") is Refusal.FENCED
    assert await put_texts(redis, [TextSnapshot(1, 10, 0, b"one two", NOTHING)]) == [Refusal.FENCED]
    with pytest.raises(FencedError):
        await open_text(redis, 1, 10, 0, create=True)
    assert await say(redis, 11, 3, " 2") == 0
    assert (await read(redis)) == TextSlice(0, 0, b"one 2", 5, finished=False)


async def test_a_successor_learns_who_has_written(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await append(redis, [TextAppend(1, 10, 0, b"one", NOTHING, writer="small@")])
    await append(redis, [TextAppend(1, 10, 3, b" two", NOTHING)])
    for token in (11, 12):  # who takes it over and says nothing changes nothing
        assert await open_text(redis, 1, token, 0, create=False) == StoredText("one two", NOTHING, None, "small@")
    assert await put_texts(redis, [TextSnapshot(1, 12, 1, b"uno", NOTHING, writer="large@")]) == [0]
    assert await open_text(redis, 1, 13, 1, create=False) == StoredText("uno", NOTHING, None, "large@")
    assert await put_texts(redis, [TextSnapshot(1, 13, 2, b"", NOTHING)]) == [0]
    assert await open_text(redis, 1, 14, 2, create=False) == StoredText("", NOTHING, None, None)


async def test_a_text_without_a_writer_is_one_of_an_unknown_model(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await append(redis, [TextAppend(1, 10, 0, b"one", NOTHING)])
    assert await open_text(redis, 1, 11, 0, create=False) == StoredText("one", NOTHING, None, None)


async def test_a_successor_finds_the_finish_entry(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "all", FinishReason.OUTPUT_LIMIT)
    finished = await read(redis)
    assert finished is not None
    assert finished.finished
    assert await open_text(redis, 1, 11, 0, create=False) == StoredText(
        "all", RunningUsage(prompt_tokens=5, completion_tokens=0), FinishReason.OUTPUT_LIMIT
    )


async def test_an_append_at_another_offset_or_to_nothing_changes_nothing(redis: MeshRedis) -> None:
    assert await say(redis, 10, 0, "x") is Refusal.MISSING
    assert await redis.dbsize() == 0
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "abc")
    assert await say(redis, 10, 0, "abc") is Refusal.MISSING  # repeated because its reply was lost
    assert await say(redis, 10, 5, "x") is Refusal.MISSING
    assert await say(redis, 11, 3, "x") is Refusal.MISSING  # a claim that has not opened it
    assert await put_texts(redis, [TextSnapshot(1, 10, 0, b"abcd", NOTHING)]) == [0]
    assert await read(redis, offset=2) == TextSlice(0, 2, b"cd", 4, finished=False)


@pytest.mark.parametrize("lost", [("answer", 1), ("answer", 1, "text")])
async def test_a_text_of_which_half_was_evicted_is_missing_as_a_whole(redis: MeshRedis, lost: tuple[object]) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "abc")
    await redis.delete(redis.name(*lost))
    assert await read(redis) is None
    assert await say(redis, 10, 3, "d") is Refusal.MISSING
    assert await open_text(redis, 1, 11, 0, create=False) is None
    assert await put_texts(redis, [TextSnapshot(1, 11, 1, b"", NOTHING)]) == [0]
    assert await say(redis, 11, 0, "x") == 0


async def test_text_is_taken_back_by_a_higher_epoch(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "one")
    await open_text(redis, 1, 11, 0, create=False)
    await put_texts(redis, [TextSnapshot(1, 11, 1, b"", NOTHING)])
    assert await read(redis, 0, 3) == TextSlice(1, 0, b"", 0, finished=False)
    await say(redis, 11, 0, "two!")
    assert await read(redis, 0, 3) == TextSlice(1, 0, b"two!", 4, finished=False)
    # PostgreSQL had raised the epoch, and the worker died before it told Redis.
    assert await open_text(redis, 1, 12, 2, create=False) == StoredText("", NOTHING, None)
    assert await read(redis, 1, 4) == TextSlice(2, 0, b"", 0, finished=False)


async def test_an_answer_that_ended_takes_no_text_and_goes_after_a_while(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await say(redis, 10, 0, "one")
    keys = [redis.name("answer", 1), redis.name("answer", 1, "text")]
    for key in keys:
        assert await redis.ttl(key) == -1
    await close_texts(redis, [1, 2])
    for key in keys:
        assert 0 < await redis.ttl(key) <= ENDED_SECONDS
    assert await redis.dbsize() == 2
    assert await say(redis, 10, 3, "x") is Refusal.FENCED
    assert await read(redis, offset=1) == TextSlice(0, 1, b"ne", 3, finished=True)


async def test_scripts_are_sent_again_to_a_server_that_has_lost_them(redis: MeshRedis) -> None:
    await open_text(redis, 1, 10, 0, create=True)
    await redis.script_flush()
    assert await say(redis, 10, 0, "a") == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans()), max_size=12))
async def test_chunks_that_are_heard_add_up_to_the_text(redis: MeshRedis, writes: list[tuple[str, bool]]) -> None:
    """Whoever holds the answer, and however often it changes hands."""
    await redis.flushdb()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(redis.name(text_channel(1)))
        await pubsub.get_message(timeout=5)
        token, whole = 1, b""
        await open_text(redis, 1, token, 0, create=True)
        for text, changes_hands in writes:
            if changes_hands:
                token += 1
                opened = await open_text(redis, 1, token, 0, create=False)
                assert opened is not None
                assert opened.text.encode() == whole
                assert await say(redis, token - 1, len(whole), text) is Refusal.FENCED
            assert await say(redis, token, len(whole), text) == 1
            whole += text.encode()
        heard = b""
        for text, _ in writes:
            message = await pubsub.get_message(timeout=5)
            assert message is not None
            assert TextChunk.parse(message["data"]) == TextChunk(0, len(heard), text.encode())
            heard += text.encode()
    assert heard == whole


def test_a_chunk_may_repeat_what_a_reader_has_but_not_leave_a_hole() -> None:
    chunk = TextChunk.parse(b"2:3:a:b")
    assert chunk == TextChunk(2, 3, b"a:b")
    assert [chunk.after(length) for length in (2, 3, 4, 6, 9)] == [None, b"a:b", b":b", b"", b""]


async def test_a_hundred_texts_cost_one_call(redis: MeshRedis) -> None:
    await asyncio.gather(*(open_text(redis, number, 1, 0, create=True) for number in range(100)))
    await redis.config_resetstat()
    replies = await append(redis, [TextAppend(number, 1, 0, b"x", NOTHING) for number in range(100)])
    readings = await read_texts(redis, [ReadPosition(number, 0, 0) for number in range(100)])
    assert replies == [0] * 100
    assert all(reading and reading.text == b"x" for reading in readings)
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == 2
