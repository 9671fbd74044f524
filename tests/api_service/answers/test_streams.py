"""Watching an answer appear."""

import asyncio
import random
from functools import partial
from typing import Any

import pytest
from aiohttp import ClientSession
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.answers.server_sent_events import SseEncoder
from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from questions.states import ErrorReason
from questions.sweeping import sweep
from tests.api_service import worker_actions
from tests.api_service.serving import serving, settings_for
from tests.api_service.sse import FINAL, Event, ask, read, text_of, watch, watching
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALPHABETS = [
    'abc \n"\\',
    "éßñ\u0301",
    "Ответ ",
    "答え字",
    "🙂👩‍🚀🏳️‍🌈",
    "\u2028\u2029\x85\x0b\x1f\x7f",
    "\ufeff\U0010ffff\u202e",
]


def pieces_of_every_kind(count: int, seed: int) -> list[str]:
    choose = random.Random(seed)
    return ["".join(choose.choices(choose.choice(ALPHABETS), k=choose.randint(1, 12))) for _ in range(count)]


async def test_an_answer_is_watched_from_the_queue_to_its_end(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(streams, words)
    async with watching(streams, question_id) as stream:
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert stream.response.headers["X-Accel-Buffering"] == "no"
        assert await stream.next() == Event("status", {"question_id": question_id, "status": "queued"})
        writer = await Writer.begin(api_engine, api_redis, words)
        await writer.write("The capital", " of Frañce is")
        before = [await stream.next()]
        while before[-1].id != "0:25":
            before.append(await stream.next())
        assert text_of(before) == "The capital of Frañce is"
        assert Event("status", {"question_id": question_id, "status": "in_progress"}) in before
        await writer.write(" Paris.")
        await writer.complete()
        *deltas, final = await stream.rest()
    answer = await read(streams, question_id)
    assert deltas == [Event("delta", {"text": " Paris."}, "0:32")]
    assert final == Event("completed", answer, "0:32:end")
    assert answer["answer_text"] == "The capital of Frañce is Paris."


async def test_the_place_in_the_queue_is_shown(streams: ClientSession, words: str) -> None:
    first, second = await ask(streams, words), await ask(streams, words + "?")
    async with watching(streams, first) as one, watching(streams, second) as other:
        seen = []
        for stream in (one, other):
            event = await stream.next()
            while "queue_position" not in event.data:
                event = await stream.next()
            seen.append(event.data["queue_position"])
        assert seen[0] < seen[1]


async def test_every_id_is_valid_while_the_answer_is_written_and_afterwards(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    pieces = pieces_of_every_kind(40, seed=(seed := random.randrange(10**6)))
    question_id = await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    seen: list[Event] = []
    last_id = None
    for piece in pieces:  # the reader comes anew for each
        await writer.write(piece)
        async with watching(streams, question_id, last_id) as stream:
            event = await stream.next()
            while event.name != "delta":
                event = await stream.next()
        seen.append(event)
        last_id = event.id
    assert text_of(seen) == "".join(pieces), seed
    ids = [event.id for event in seen]
    rests = [text_of(seen[number:]) for number in range(1, len(seen) + 1)]

    async def follow(last_id: str | None) -> list[Event]:
        return await watch(streams, question_id, last_id)

    live = [asyncio.create_task(follow(last_id)) for last_id in [None, *ids]]
    async with asyncio.timeout(30):
        while not await api_redis.pubsub_channels(f"*:{writer.answer_id}"):
            await asyncio.sleep(0.01)
    await writer.write(" The end.")
    await writer.complete()
    async with asyncio.timeout(30):
        followed = await asyncio.gather(*live)
    replayed = await asyncio.gather(*map(follow, [None, *ids]))
    answer = await read(streams, question_id)
    assert answer["answer_text"] == "".join(pieces) + " The end."
    for stream_of_events in (followed, replayed):
        for events, rest in zip(stream_of_events, ["".join(pieces), *rests], strict=True):
            assert text_of(events) == rest + " The end.", seed
            assert (events[-1].name, events[-1].data) == ("completed", answer)
            assert {event.id is None for event in events if event.name == "status"} <= {True}
    end = replayed[0][-1].id
    assert await watch(streams, question_id, replayed[0][-2].id) == [replayed[0][-1]]  # all of the text, but no end yet
    for options in ({"headers": {"Last-Event-ID": end}}, {"params": {"starting_after": end}}):
        async with streams.get(f"/api/answer/{question_id}/events", **options) as response:  # type: ignore[arg-type]
            assert (response.status, await response.read()) == (204, b"")


async def test_the_header_counts_more_than_the_parameter(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    question_id = await ask(streams, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    assert text_of(await watch(streams, question_id)) == "It says so."
    for last_id, rest in ((None, "says so."), ("0:8", "so.")):
        async with watching(streams, question_id, last_id, params={"starting_after": "0:3"}) as stream:
            assert text_of(await stream.rest()) == rest


@pytest.mark.parametrize(
    ("cursor", "live", "detail"),
    [
        ("nonsense", True, "is not a cursor"),
        ("0:1:2", False, "is not a cursor"),
        ("0:1,0:2", True, "is not a cursor"),
        ("", False, "is not a cursor"),
        ("0:2", True, "is within a code point"),
        ("0:2", False, "is within a code point"),
        ("0:5", False, "is beyond the end of the answer"),
        ("1:0", False, "is beyond the end of the answer"),
        ("0:4:end", True, "is the end of an answer that has not ended"),
    ],
)
async def test_a_cursor_that_cannot_be_is_refused(
    streams: ClientSession,
    api_engine: AsyncEngine,
    api_redis: MeshRedis,
    words: str,
    cursor: str,
    live: bool,
    detail: str,
) -> None:
    question_id = await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("aé", "b")
    if not live:
        await writer.complete()
    for options, field in (
        ({"headers": {"Last-Event-ID": cursor}}, "Last-Event-ID"),
        ({"params": {"starting_after": cursor}}, "starting_after"),
    ):
        async with streams.get(f"/api/answer/{question_id}/events", **options) as response:  # type: ignore[arg-type]
            problem = await response.json()
            assert (response.status, response.content_type) == (400, "application/problem+json")
            assert [(error["field"], error["detail"]) for error in problem["errors"]] == [(field, detail)]


async def test_a_parameter_that_is_no_cursor_is_refused_beside_a_header_that_is_one(
    streams: ClientSession, words: str
) -> None:
    question_id = await ask(streams, words)
    headers = {"Last-Event-ID": "0:0"}
    async with streams.get(f"/api/answer/{question_id}/events?starting_after=x", headers=headers) as response:
        assert response.status == 400
        assert [error["field"] for error in (await response.json())["errors"]] == ["starting_after"]


async def test_a_cursor_ahead_of_the_text_waits_for_it(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("123")
    async with watching(streams, question_id, "0:5") as ahead, watching(streams, question_id, "0:7") as torn:
        await writer.write("45", "6🙂", "!")
        assert await ahead.text(3) == "6🙂!"
        assert text_of(await torn.rest()) == ""  # 7 is within the emoji: the stream ends, and to come back is a 400
        await writer.complete()
        assert [event.name for event in await ahead.rest()] == ["completed"]


async def test_text_that_is_taken_back_is_said_to_be(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("Wrong.")
    async with watching(streams, question_id) as stream:
        assert await stream.text(6) == "Wrong."
        await writer.restart()
        assert (await stream.next()) == Event("restarted", {})
        await writer.write("Ri", "ght.")
        assert await stream.text(6) == "Right."
    for ended in (False, True):
        if ended:
            await writer.complete()
        async with watching(streams, question_id, "0:6") as late, watching(streams, question_id, "1:2") as early:
            events = [await late.next()]
            while events[-1].id != "1:6":
                events.append(await late.next())
            assert [event.name for event in events if event.name != "status"] == ["restarted", "delta"]
            assert text_of(events) == "Right."
            assert await early.text(4) == "ght."
    assert [event.name for event in await watch(streams, question_id)] == ["delta", "completed"]


@pytest.mark.parametrize("reason", [ErrorReason.POISON])
async def test_a_failure_leaves_the_deltas_as_they_are(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str, reason: ErrorReason
) -> None:
    question_id = await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("It says")
    async with watching(streams, question_id) as stream:
        assert await stream.text(7) == "It says"
        await writer.fail(reason)
        (final,) = await stream.rest()
    assert (final.name, final.data, final.id) == ("failed", await read(streams, question_id), "0:7:end")
    assert [event.name for event in await watch(streams, question_id, "0:7")] == ["failed"]


async def test_cancelling_and_expiry_end_a_stream(streams: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    cancelled, expired = await ask(streams, words), await ask(streams, words + "?", max_wait_seconds=0.5)
    async with watching(streams, cancelled) as one, watching(streams, expired) as other:
        assert {(await one.next()).name, (await other.next()).name} == {"status"}
        async with streams.post(f"/api/answer/{cancelled}/cancel", headers={"Accept-Language": "ru"}) as response:
            assert response.status == 200
        assert (await one.rest())[-1] == Event("cancelled", await read(streams, cancelled), "0:0:end")
        while (await read(streams, expired))["status"] != "expired":
            await sweep(api_engine, 1)
        assert (await other.rest())[-1].name == "expired"


async def test_a_cancelled_question_ends_while_its_answer_goes_on_for_others(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    one, other = await ask(streams, words), await ask(streams, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    async with watching(streams, one) as leaving, watching(streams, other) as staying:
        await writer.write("It")
        assert (await leaving.text(2), await staying.text(2)) == ("It", "It")
        await (await streams.post(f"/api/answer/{one}/cancel")).read()
        assert [event.name for event in await leaving.rest()] == ["cancelled"]
        await writer.write(" says")
        await writer.complete()
        assert [event.name for event in await staying.rest()] == ["delta", "completed"]


async def test_sentences_of_the_last_event_are_in_the_readers_language(streams: ClientSession, words: str) -> None:
    question_id = await ask(streams, words)
    await (await streams.post(f"/api/answer/{question_id}/cancel")).read()
    headers = {"Accept-Language": "ru"}
    async with streams.get(f"/api/answer/{question_id}/events", headers=headers) as response:
        assert "Вопрос отменен." in await response.text()


async def test_a_question_of_nobody_has_no_events(streams: ClientSession) -> None:
    for number in (str(2**53 - 1), "0", "x"):
        async with streams.get(f"/api/answer/{number}/events") as response:
            assert (response.status, (await response.json())["code"]) == (404, "question_not_found")


async def test_a_question_that_is_removed_ends_its_stream(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    question_id = await ask(streams, words)
    async with watching(streams, question_id) as stream:
        async with api_engine.begin() as connection:
            await connection.execute(text("DELETE FROM questions WHERE id = :id"), {"id": question_id})
        assert not {event.name for event in await stream.rest()} & FINAL


async def test_a_silent_stream_is_kept_alive(
    streams: ClientSession, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_service.answers.endpoints.SseEncoder", partial(SseEncoder, idle_seconds=0.05))
    question_id = await ask(streams, words)
    async with watching(streams, question_id) as stream, asyncio.timeout(30):
        await stream.next()
        waiting = asyncio.create_task(stream.rest())
        while stream.comments < 3:
            await asyncio.sleep(0.01)
        await (await streams.post(f"/api/answer/{question_id}/cancel")).read()
        assert [event.name for event in await waiting][-1] == "cancelled"


async def test_replicas_give_the_same_stream(
    streams: ClientSession,
    api_engine: AsyncEngine,
    api_redis: MeshRedis,
    api_database_url: str,
    valkey: Valkey,
    words: str,
) -> None:
    async with serving(settings_for(api_database_url, valkey)) as url, ClientSession(url) as replica:
        question_id = await ask(streams, words)
        writer = await Writer.begin(api_engine, api_redis, words)
        async with watching(streams, question_id) as here, watching(replica, question_id) as there:
            await writer.write("It says ")
            assert await here.text(8) == await there.text(8) == "It says "
            async with watching(replica, question_id, "0:3") as moved:
                await writer.write("so.")
                assert await moved.text(8) == "says so."
                await writer.complete()
                ends: list[Any] = [(await stream.rest())[-1] for stream in (here, there, moved)]
        assert ends[0] == ends[1] == ends[2]
        cancelled = await ask(streams, words + "?")
        async with watching(streams, cancelled) as here:
            await here.next()
            await (await replica.post(f"/api/answer/{cancelled}/cancel")).read()
            assert (await here.rest())[-1].name == "cancelled"
