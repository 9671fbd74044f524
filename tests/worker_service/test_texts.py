"""How the text of answers gets into Redis: chunking, outages, and what PostgreSQL has to say first."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from live.answer_stream import Chunk, Cursor, Reading, Usage, close_texts, read_texts, text_channel
from questions.claims import Claim
from questions.states import FinishReason
from tests.servers import redis_at
from tests.worker_service.waiting import eventually
from worker_service.answering.texts import Text, Texts
from worker_service.claiming.leases import Lease
from worker_service.outages import Outage

pytestmark = pytest.mark.integration


class ConfirmedLease(Lease):
    """A lease that lasts, and counts who wants it renewed."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def worker_id(self) -> int | None:
        return 1

    def renew_soon(self) -> None:
        self.asked += 1


def claim_of(answer_id: int = 1, token: int = 10, attempt: int = 1, epoch: int = 0) -> Claim:
    return Claim(answer_id, token, attempt, epoch, 0, 0, None, "question")


@asynccontextmanager
async def writing(redis: MeshRedis) -> AsyncIterator[tuple[Texts, ConfirmedLease]]:
    lease = ConfirmedLease()
    texts = Texts(redis, lease, Outage("Redis", "tests"))
    task = asyncio.create_task(texts.run())
    try:
        yield texts, lease
    finally:
        task.cancel()
        await asyncio.wait({task})


async def opened(texts: Texts, claim: Claim) -> Text:
    text = await texts.open(claim)
    assert text is not None
    return text


async def stored(redis: MeshRedis, answer_id: int = 1, epoch: int = 0) -> str | None:
    (reading,) = await read_texts(redis, [Cursor(answer_id, epoch, 0)])
    return reading.text.decode() if reading else None


async def until_stored(redis: MeshRedis, expected: str) -> None:
    async def is_stored() -> bool:
        return await stored(redis) == expected

    await eventually(is_stored, f"Redis has {expected!r}")


async def test_an_answer_is_stored_with_its_first_text_or_soon_without(
    redis: MeshRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub, writing(redis) as (texts, _):
        await pubsub.subscribe(redis.name(text_channel(1)), redis.name(text_channel(2)))
        await pubsub.get_message(timeout=5)
        await pubsub.get_message(timeout=5)
        monkeypatch.setattr("worker_service.answering.texts._OPENING_SECONDS", 3_600.0)
        texts.add(await opened(texts, claim_of(1)), "first", Usage())
        monkeypatch.setattr("worker_service.answering.texts._OPENING_SECONDS", 0.01)
        await opened(texts, claim_of(2))
        messages: list[bytes] = []
        while len(messages) < 2:
            if message := await pubsub.get_message(timeout=5):
                messages.append(message["data"])

    assert sorted(messages) == [b"0:0:", b"0:0:first"]


async def test_in_a_flood_one_call_serves_many_answers(redis: MeshRedis) -> None:
    def calls() -> int:
        return statistics["cmdstat_evalsha"]["calls"] if "cmdstat_evalsha" in statistics else 0

    async with writing(redis) as (texts, _):
        statistics = await redis.info("commandstats")
        before, began = calls(), time.monotonic()
        for number in range(300):
            texts.add(await opened(texts, claim_of(number + 1)), "text", Usage())
            await asyncio.sleep(0.001)
        await eventually(lambda: not texts._pending, "all are stored")
        seconds = time.monotonic() - began
        statistics = await redis.info("commandstats")

    assert calls() - before <= 8 + seconds * 200 + 1


WHITE = st.text(" \t\n\r\u2003\u00a0\u0085", max_size=3)
PIECES = st.lists(
    st.one_of(st.text(max_size=6), WHITE, st.sampled_from(["👩\u200d🚀", "e\u0301", "🇫🇷", "\ufeff"])), max_size=20
)


@given(PIECES)
def test_released_text_never_ends_in_white_space_and_adds_up(pieces: list[str]) -> None:
    text = Text(claim_of())
    before = b""
    for number, piece in enumerate(pieces):
        text.add(piece)
        released = text.released.decode()
        assert released == "".join(pieces[: number + 1]).rstrip()
        assert text.released.startswith(before)
        before = bytes(text.released)
        assert str(text) == "".join(pieces[: number + 1])
    text.end(FinishReason.STOP)
    assert text.released.decode() == "".join(pieces)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)))
async def test_chunks_add_up_whatever_the_cuts_and_the_attempts(
    redis: MeshRedis, pieces: list[str], pauses: set[int], deaths: set[int]
) -> None:
    """A worker that dies loses what it has not released; the next goes on from what there is."""
    await redis.flushdb()
    together = b""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub, writing(redis) as (texts, _):
        await pubsub.subscribe(redis.name(text_channel(1)))
        await pubsub.get_message(timeout=5)
        text = await opened(texts, claim_of())
        for number, piece in enumerate(pieces):
            text_usage = Usage(1, number, None, 0, number)
            texts.add(text, piece, text_usage)
            if number in pauses:
                await texts.settle(text)
            if number in deaths:
                await texts.settle(text)
                whole = str(text)
                texts.forget(text)
                again = await opened(texts, claim_of(token=text.claim.token + 1, attempt=2))
                assert str(again) == whole.rstrip()
                again.held = [whole[len(str(again)) :]]  # the model writes it again
                text = again
        texts.end(text, FinishReason.STOP, Usage())
        await texts.settle(text)
        final = str(text)
        assert final == "".join(pieces)
        while len(together) < len(final.encode()):
            message = await pubsub.get_message(timeout=5)
            assert message is not None
            more = Chunk.parse(message["data"]).after(len(together))
            assert more is not None
            more.decode()
            together += more
    assert together == final.encode()
    assert await stored(redis) == final


async def test_the_first_chunk_is_not_held_and_later_ones_are_gathered(redis: MeshRedis) -> None:
    async with writing(redis) as (texts, _):
        text = await opened(texts, claim_of())
        await texts.settle(text)
        await redis.config_resetstat()
        texts.add(text, "first", Usage())
        assert text.due_at == 0.0
        await until_stored(redis, "first")
        assert text.due_at > 0.0
        held_until = text.due_at = asyncio.get_running_loop().time() + 3_600
        for number in range(50):
            texts.add(text, f" {number}", Usage())
        assert text.due_at == held_until
        texts.end(text, FinishReason.STOP, Usage())
        await texts.settle(text)
        calls = (await redis.info("commandstats"))["cmdstat_append"]["calls"]
        assert calls == 2
        texts.forget(text)


def test_chunks_that_are_late_already_are_sent_at_once_on_uvloop_too(valkey: Valkey) -> None:
    async def scenario() -> None:
        redis = redis_at(valkey.url())
        await redis.flushdb()
        async with writing(redis) as (texts, _):
            several = [await opened(texts, claim_of(number)) for number in range(1, 4)]
            for text in several:
                texts.add(text, "first", Usage())
                await texts.settle(text)
                text.due_at = asyncio.get_running_loop().time() - 1
            for text in several:
                texts.add(text, " late", Usage())
            await until_stored(redis, "first late")
        await redis.aclose()

    uvloop.run(scenario())


async def test_somebody_who_listens_gets_smaller_chunks(redis: MeshRedis) -> None:
    async with writing(redis) as (texts, _), redis.pubsub() as pubsub:
        text = await opened(texts, claim_of())
        await texts.settle(text)
        alone = text.interval
        await pubsub.subscribe(redis.name(text_channel(1)))
        await pubsub.get_message(timeout=5)
        texts.add(text, "first", Usage())
        await texts.settle(text)
        assert text.interval < alone / 10


async def test_a_flushed_redis_is_given_the_whole_text_once_postgresql_has_confirmed_the_lease(
    redis: MeshRedis,
) -> None:
    async with writing(redis) as (texts, lease):
        text = await opened(texts, claim_of())
        texts.add(text, "one", Usage())
        await texts.settle(text)
        await redis.flushall()
        texts.add(text, " two", Usage())
        await texts.settle(text)
        await eventually(lambda: lease.asked == 1, "the lease is to be renewed")
        texts.add(text, " three", Usage())
        assert await stored(redis) is None
        texts.lease_renewed(frozenset({11}))
        assert await stored(redis) is None
        texts.lease_renewed(frozenset({10}))
        await until_stored(redis, "one two three")
        texts.end(text, FinishReason.STOP, Usage())
        await texts.settle(text)
        assert await read_texts(redis, [Cursor(1, 0, 3)]) == [Reading(0, 3, b" two three", 13, finished=True)]


async def test_a_former_holder_writes_nothing_more(redis: MeshRedis) -> None:
    async with writing(redis) as (former, lease), writing(redis) as (later, _):
        text = await opened(former, claim_of())
        former.add(text, "one", Usage())
        await former.settle(text)
        again = await opened(later, claim_of(token=11, attempt=2))
        former.add(text, " wrong", Usage())
        later.add(again, " right", Usage())
        await former.settle(text)
        await later.settle(again)
        assert await stored(redis) == "one right"
        assert text.lost
        await eventually(lambda: lease.asked == 1, "PostgreSQL is asked whose it is")


async def test_redis_that_belongs_to_another_database_stops_no_answer(redis: MeshRedis) -> None:
    """As after PostgreSQL was restored from a backup: ids and tokens begin again."""
    async with writing(redis) as (texts, lease):
        old = await opened(texts, claim_of(token=99))
        texts.add(old, "old", Usage())
        await texts.settle(old)
        await close_texts(redis, [1])
        text = await opened(texts, claim_of())
        texts.add(text, "new", Usage())
        await eventually(lambda: lease.asked == 1, "PostgreSQL is asked whose it is")
        texts.lease_renewed(frozenset({10}))
        await until_stored(redis, "new")


async def test_text_taken_back_is_taken_back_in_redis(redis: MeshRedis) -> None:
    async with writing(redis) as (texts, _):
        text = await opened(texts, claim_of())
        texts.add(text, "one", Usage(3, 1, None, 0, 1))
        await texts.settle(text)
        texts.begin_anew(text, 1)
        assert text.usage == Usage(repeated_tokens=4)
        texts.add(text, "two", Usage())
        await texts.settle(text)
        assert await read_texts(redis, [Cursor(1, 0, 3)]) == [Reading(1, 0, b"two", 3, finished=False)]


async def test_without_redis_nothing_waits_and_the_log_has_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = Valkey(tmp_path)
    with valkey:
        redis = redis_at(valkey.url())
        async with writing(redis) as (texts, _):
            text = await opened(texts, claim_of())
            texts.add(text, "one", Usage())
            await texts.settle(text)
            valkey.kill()
            texts.add(text, " two", Usage())
            await texts.settle(text)
            for number in range(20):
                texts.add(text, f" {number}", Usage())
                await texts.settle(text)
            assert await texts.open(claim_of(2, attempt=2)) is None
            lines = [record.getMessage() for record in caplog.records if record.name == "foundation.reachability"]
            assert len(lines) == 1, lines
            valkey.start()
            other = await opened(texts, claim_of(3))
            texts.add(other, "three", Usage())

            async def is_back() -> bool:
                return await stored(redis, 3) == "three"

            await eventually(is_back, "Redis is written to again")
        await redis.aclose()
