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
from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from live.answer_stream import ReadPosition, RunningUsage, TextChunk, TextSlice, close_texts, read_texts, text_channel
from questions.claims import Claim
from questions.states import FinishReason
from tests.servers import redis_at
from tests.worker_service.waiting import eventually
from worker_service.answering.answer_text import AnswerText, CopyState
from worker_service.answering.text_publisher import GATHER_NOTHING, Gathering, TextPublisher
from worker_service.claiming.leases import Lease

GATHERED = Gathering()


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
async def writing(
    redis: MeshRedis, gathering: Gathering = GATHERED
) -> AsyncIterator[tuple[TextPublisher, ConfirmedLease]]:
    lease = ConfirmedLease()
    publisher = TextPublisher(redis, lease, Reachability.of("Redis", "tests"), gathering)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, lease
    finally:
        task.cancel()
        await asyncio.wait({task})


async def opened(publisher: TextPublisher, claim: Claim) -> AnswerText:
    text = await publisher.open(claim)
    assert text is not None
    return text


async def stored(redis: MeshRedis, answer_id: int = 1, epoch: int = 0) -> str | None:
    (reading,) = await read_texts(redis, [ReadPosition(answer_id, epoch, 0)])
    return reading.text.decode() if reading else None


async def until_stored(redis: MeshRedis, expected: str) -> None:
    async def is_stored() -> bool:
        return await stored(redis) == expected

    await eventually(is_stored, f"Redis has {expected!r}")


async def test_an_answer_is_stored_with_its_first_text_or_soon_without(redis: MeshRedis) -> None:
    patient, hasty = Gathering(opening=3_600.0), Gathering(opening=0.01)
    async with (
        redis.pubsub(ignore_subscribe_messages=True) as pubsub,
        writing(redis, patient) as (publisher, _),
        writing(redis, hasty) as (other, _),
    ):
        await pubsub.subscribe(redis.name(text_channel(1)), redis.name(text_channel(2)))
        await pubsub.get_message(timeout=5)
        await pubsub.get_message(timeout=5)
        publisher.add(await opened(publisher, claim_of(1)), "first", RunningUsage())
        await opened(other, claim_of(2))
        messages: list[bytes] = []
        while len(messages) < 2:
            if message := await pubsub.get_message(timeout=5):
                messages.append(message["data"])

    assert sorted(messages) == [b"0:0:", b"0:0:first"]


async def test_in_a_flood_one_call_serves_many_answers(redis: MeshRedis) -> None:
    def calls() -> int:
        return statistics["cmdstat_evalsha"]["calls"] if "cmdstat_evalsha" in statistics else 0

    async with writing(redis) as (publisher, _):
        statistics = await redis.info("commandstats")
        before, began = calls(), time.monotonic()
        for number in range(300):
            publisher.add(await opened(publisher, claim_of(number + 1)), "text", RunningUsage())
            await asyncio.sleep(0.001)
        await eventually(lambda: not publisher._pending, "all are stored")
        seconds = time.monotonic() - began
        statistics = await redis.info("commandstats")

    assert calls() - before <= 8 + seconds * 200 + 1


WHITE = st.text(" \t\n\r\u2003\u00a0\u0085", max_size=3)
PIECES = st.lists(
    st.one_of(st.text(max_size=6), WHITE, st.sampled_from(["👩\u200d🚀", "e\u0301", "🇫🇷", "\ufeff"])), max_size=20
)


@given(PIECES)
def test_released_text_never_ends_in_white_space_and_adds_up(pieces: list[str]) -> None:
    text = AnswerText(claim_of())
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


@pytest.mark.parametrize("gathering", [GATHERED, GATHER_NOTHING], ids=["gathered", "plain"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)))
async def test_chunks_add_up_whatever_the_cuts_and_the_attempts(
    redis: MeshRedis, gathering: Gathering, pieces: list[str], pauses: set[int], deaths: set[int]
) -> None:
    """A worker that dies loses what it has not released; the next goes on from what there is."""
    await redis.flushdb()
    together = b""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub, writing(redis, gathering) as (publisher, _):
        await pubsub.subscribe(redis.name(text_channel(1)))
        await pubsub.get_message(timeout=5)
        text = await opened(publisher, claim_of())
        for number, piece in enumerate(pieces):
            text_usage = RunningUsage(prompt_tokens=1, completion_tokens=number, pieces=number)
            publisher.add(text, piece, text_usage)
            if number in pauses:
                await publisher.settle(text)
            if number in deaths:
                await publisher.settle(text)
                whole = str(text)
                publisher.forget(text)
                again = await opened(publisher, claim_of(token=text.claim.token + 1, attempt=2))
                assert str(again) == whole.rstrip()
                again.held = [whole[len(str(again)) :]]  # the model writes it again
                text = again
        publisher.end(text, FinishReason.STOP, RunningUsage())
        await publisher.settle(text)
        final = str(text)
        assert final == "".join(pieces)
        while len(together) < len(final.encode()):
            message = await pubsub.get_message(timeout=5)
            assert message is not None
            more = TextChunk.parse(message["data"]).after(len(together))
            assert more is not None
            more.decode()
            together += more
    assert together == final.encode()
    assert await stored(redis) == final


async def test_without_gathering_each_piece_is_a_call_of_its_own(redis: MeshRedis) -> None:
    async with writing(redis, GATHER_NOTHING) as (publisher, _):
        text = await opened(publisher, claim_of())
        await until_stored(redis, "")
        await redis.config_resetstat()
        for number in range(20):
            publisher.add(text, str(number % 10), RunningUsage())
            await until_stored(redis, str(text))
        calls = (await redis.info("commandstats"))["cmdstat_append"]["calls"]

    assert calls == 20


async def test_the_first_chunk_is_not_held_and_later_ones_are_gathered(redis: MeshRedis) -> None:
    async with writing(redis) as (publisher, _):
        text = await opened(publisher, claim_of())
        await publisher.settle(text)
        await redis.config_resetstat()
        publisher.add(text, "first", RunningUsage())
        assert text.copy.due_at == 0.0
        await until_stored(redis, "first")
        assert text.copy.due_at > 0.0
        held_until = text.copy.due_at = asyncio.get_running_loop().time() + 3_600
        for number in range(50):
            publisher.add(text, f" {number}", RunningUsage())
        assert text.copy.due_at == held_until
        publisher.end(text, FinishReason.STOP, RunningUsage())
        await publisher.settle(text)
        calls = (await redis.info("commandstats"))["cmdstat_append"]["calls"]
        assert calls == 2
        publisher.forget(text)


def test_chunks_that_are_late_already_are_sent_at_once_on_uvloop_too(valkey: Valkey) -> None:
    async def scenario() -> None:
        redis = redis_at(valkey.url())
        await redis.flushdb()
        async with writing(redis) as (publisher, _):
            several = [await opened(publisher, claim_of(number)) for number in range(1, 4)]
            for text in several:
                publisher.add(text, "first", RunningUsage())
                await publisher.settle(text)
                text.copy.due_at = asyncio.get_running_loop().time() - 1
            for text in several:
                publisher.add(text, " late", RunningUsage())
            await until_stored(redis, "first late")
        await redis.aclose()

    uvloop.run(scenario())


async def test_somebody_who_listens_gets_smaller_chunks(redis: MeshRedis) -> None:
    now = asyncio.get_running_loop().time
    async with writing(redis, Gathering(read=60.0, unread=3_600.0)) as (publisher, _), redis.pubsub() as pubsub:
        text = await opened(publisher, claim_of())
        await publisher.settle(text)
        assert text.copy.due_at - now() > 60
        await pubsub.subscribe(redis.name(text_channel(1)))
        await pubsub.get_message(timeout=5)
        publisher.add(text, "first", RunningUsage())
        await publisher.settle(text)
        assert text.copy.due_at - now() <= 60


async def test_a_flushed_redis_is_given_the_whole_text_once_postgresql_has_confirmed_the_lease(
    redis: MeshRedis,
) -> None:
    async with writing(redis) as (publisher, lease):
        text = await opened(publisher, claim_of())
        publisher.add(text, "one", RunningUsage())
        await publisher.settle(text)
        await redis.flushall()
        publisher.add(text, " two", RunningUsage())
        await publisher.settle(text)
        await eventually(lambda: lease.asked == 1, "the lease is to be renewed")
        publisher.add(text, " three", RunningUsage())
        assert await stored(redis) is None
        publisher.lease_renewed(frozenset({11}))
        assert await stored(redis) is None
        publisher.lease_renewed(frozenset({10}))
        await until_stored(redis, "one two three")
        publisher.end(text, FinishReason.STOP, RunningUsage())
        await publisher.settle(text)
        assert await read_texts(redis, [ReadPosition(1, 0, 3)]) == [TextSlice(0, 3, b" two three", 13, finished=True)]


async def test_a_former_holder_writes_nothing_more(redis: MeshRedis) -> None:
    async with writing(redis) as (former, lease), writing(redis) as (later, _):
        text = await opened(former, claim_of())
        former.add(text, "one", RunningUsage())
        await former.settle(text)
        again = await opened(later, claim_of(token=11, attempt=2))
        former.add(text, " wrong", RunningUsage())
        later.add(again, " right", RunningUsage())
        await former.settle(text)
        await later.settle(again)
        assert await stored(redis) == "one right"
        assert text.copy.state is CopyState.REFUSED
        await eventually(lambda: lease.asked == 1, "PostgreSQL is asked whose it is")


async def test_redis_that_belongs_to_another_database_stops_no_answer(redis: MeshRedis) -> None:
    """As after PostgreSQL was restored from a backup: ids and tokens begin again."""
    async with writing(redis) as (publisher, lease):
        old = await opened(publisher, claim_of(token=99))
        publisher.add(old, "old", RunningUsage())
        await publisher.settle(old)
        await close_texts(redis, [1])
        text = await opened(publisher, claim_of())
        publisher.add(text, "new", RunningUsage())
        await eventually(lambda: lease.asked == 1, "PostgreSQL is asked whose it is")
        publisher.lease_renewed(frozenset({10}))
        await until_stored(redis, "new")


async def test_text_taken_back_is_taken_back_in_redis(redis: MeshRedis) -> None:
    async with writing(redis) as (publisher, _):
        text = await opened(publisher, claim_of())
        publisher.add(text, "one", RunningUsage(prompt_tokens=3, completion_tokens=1, pieces=1))
        await publisher.settle(text)
        publisher.begin_anew(text, 1)
        assert text.usage == RunningUsage(repeated_tokens=4)
        publisher.add(text, "two", RunningUsage())
        await publisher.settle(text)
        assert await read_texts(redis, [ReadPosition(1, 0, 3)]) == [TextSlice(1, 0, b"two", 3, finished=False)]


@pytest.mark.valkey
async def test_without_redis_nothing_waits_and_the_log_has_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = Valkey(tmp_path)
    with valkey:
        redis = redis_at(valkey.url())
        async with writing(redis) as (publisher, _):
            text = await opened(publisher, claim_of())
            publisher.add(text, "one", RunningUsage())
            await publisher.settle(text)
            valkey.kill()
            publisher.add(text, " two", RunningUsage())
            await publisher.settle(text)
            for number in range(20):
                publisher.add(text, f" {number}", RunningUsage())
                await publisher.settle(text)
            assert await publisher.open(claim_of(2, attempt=2)) is None
            lines = [record.getMessage() for record in caplog.records if record.name == "foundation.reachability"]
            assert len(lines) == 1, lines
            valkey.start()
            other = await opened(publisher, claim_of(3))
            publisher.add(other, "three", RunningUsage())

            async def is_back() -> bool:
                return await stored(redis, 3) == "three"

            await eventually(is_back, "Redis is written to again")
        await redis.aclose()
