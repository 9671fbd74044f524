"""Asking and waiting in one request."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.answers.phrases import ACCEPTED, FAILED
from api_service.core import asking, reading
from api_service.core.languages import Language
from api_service.core.reading import QuestionReader
from api_service.http import dependencies
from foundation.redis import MeshRedis
from questions.asking import Accepted, accept
from questions.reading import Question
from questions.states import ErrorReason
from tests.api_service import worker_actions
from tests.api_service.serving import until
from tests.api_service.sse import Stream, read
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENT = ClientTimeout(total=None, sock_read=90)
Reply = tuple[int, Mapping[str, str], Any]


async def ask(
    api: ClientSession, words: str, wait: str = "60", headers: dict[str, str] | None = None, **fields: Any
) -> Reply:
    body = {"question_text": words, **fields}
    async with api.post(f"/api/ask?wait={wait}", json=body, headers=headers, timeout=PATIENT) as response:
        return response.status, response.headers, await response.json()


async def asked(engine: AsyncEngine, words: str) -> int:
    """The id of the only question with these words, once it is there."""
    await until(lambda: worker_actions.stored(engine, words))
    (question_id,) = await worker_actions.stored(engine, words)
    return question_id


async def test_the_reply_is_the_answer_as_soon_as_it_is_there(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_again(*_: object) -> None:
        raise AssertionError("what was stored a moment ago need not be read")

    monkeypatch.setattr("api_service.core.reading.reading.read", read_again)
    waiting = asyncio.create_task(ask(streams, words))
    question_id = await asked(api_engine, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    await writer.write("It says so.")
    assert not waiting.done()
    await writer.complete()
    status, headers, body = await waiting
    assert status == 200
    assert body == {
        "question_id": question_id,
        "status": "completed",
        "answer_text": "It says so.",
        "cached": False,
        "coalesced": False,
    }
    assert headers["Location"] == f"/api/answer/{question_id}"
    assert (headers["Cache-Control"], headers["Vary"]) == ("no-store", "Accept-Language")
    assert "Retry-After" not in headers
    status, _, again = await ask(streams, words)
    assert (status, again["status"], again["cached"]) == (200, "completed", True)


@pytest.mark.parametrize("seconds", ["0", "0.05", "1"])
async def test_after_that_time_it_is_accepted_as_without_waiting(
    streams: ClientSession, words: str, seconds: str
) -> None:
    began = time.monotonic()
    status, headers, body = await ask(streams, words, seconds, {"Accept-Language": "ru"})
    assert time.monotonic() - began >= float(seconds)
    assert (status, headers["Retry-After"]) == (202, "1")
    assert headers["Location"] == f"/api/answer/{body['question_id']}"
    assert (body["status"], body["answer_text"]) == ("queued", ACCEPTED[Language.RUSSIAN])


async def test_nobody_waits_for_longer_than_proxies_do(
    streams: ClientSession, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nginx, ingress-nginx and AWS's load balancers give a request up on which nothing has come for 60 s.
    assert dependencies.LONGEST_WAIT_SECONDS + reading.LAST_LOOK_SECONDS < 60
    monkeypatch.setattr(dependencies, "LONGEST_WAIT_SECONDS", 0.2)
    status, headers, body = await ask(streams, words, "60")
    assert (status, body["status"]) == (202, "queued")
    async with streams.get(f"{headers['Location']}?wait=60") as response:
        assert (response.status, (await response.json())["status"]) == (200, "queued")


async def test_what_asking_takes_is_part_of_the_wait(
    streams: ClientSession, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def accept_slowly(*arguments: Any, **named: Any) -> Accepted:
        await asyncio.sleep(0.2)
        return await accept(*arguments, **named)

    async def wait_after_asking(_: object, question: Question, seconds: float, __: object) -> Question:
        waited.append(seconds)
        return question

    monkeypatch.setattr(asking, "accept", accept_slowly)
    monkeypatch.setattr(QuestionReader, "wait_after_asking", wait_after_asking)
    await ask(streams, words, "30")
    await ask(streams, words + "?", "0.1")
    assert 0 < waited[0] <= 29.8
    assert waited[1] == 0


async def test_whoever_has_waited_gets_the_id_though_postgresql_hangs(
    streams: ClientSession, api_engine: AsyncEngine, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = asyncio.Event()

    async def hang(*_: object) -> None:
        read.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("api_service.core.reading.reading.read", hang)
    monkeypatch.setattr(reading, "LAST_LOOK_SECONDS", 0.05)
    status, _, body = await ask(streams, words, "0.05")
    assert read.is_set()
    assert (status, body["status"], body["question_id"]) == (202, "queued", await asked(api_engine, words))


async def test_what_has_begun_meanwhile_is_told_so(streams: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    waiting = asyncio.create_task(ask(streams, words, "2"))
    await asked(api_engine, words)
    await worker_actions.start(api_engine, words)
    status, _, body = await waiting
    assert (status, body["status"]) == (202, "in_progress")


async def test_an_end_without_an_answer_is_a_200_too(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    failing = asyncio.create_task(ask(streams, words))
    await asked(api_engine, words)
    await worker_actions.fail(api_engine, words, ErrorReason.CONTEXT_TOO_LONG)
    status, _, body = await failing
    assert (status, body["status"]) == (200, "failed")
    assert body["answer_text"] == FAILED[ErrorReason.CONTEXT_TOO_LONG][Language.ENGLISH]
    cancelled = asyncio.create_task(ask(streams, words + "?"))
    async with streams.post(f"/api/answer/{await asked(api_engine, words + '?')}/cancel") as response:
        assert response.status == 200
    status, _, body = await cancelled
    assert (status, body["status"]) == (200, "cancelled")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("seconds", ["-1", "61", "60.001", "x", "", "1e1", "+1", " 1", "NaN", "inf", "1,5", "1&wait=2"])
async def test_a_wait_that_cannot_be_is_refused_before_anything_is_stored(
    streams: ClientSession, api_engine: AsyncEngine, words: str, seconds: str, accept: str
) -> None:
    status, _, problem = await ask(streams, words, seconds, {"Accept": accept})
    assert (status, problem["code"]) == (400, "invalid_parameter")
    (error,) = problem["errors"]
    assert (error["field"], error["detail"]) == ("wait", "is not a number of seconds from 0 to 60")
    assert await worker_actions.stored(api_engine, words) == []


async def test_a_stream_does_not_wait(streams: ClientSession, words: str) -> None:
    headers = {"Accept": "text/event-stream"}
    async with streams.post("/api/ask?wait=60", json={"question_text": words}, headers=headers) as response:
        assert (await Stream(response).next()).data["status"] == "queued"


async def test_a_repetition_waits_for_the_same_question(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    key = {"Idempotency-Key": words.replace(" ", "_")}
    first = asyncio.create_task(ask(streams, words, headers=key))
    question_id = await asked(api_engine, words)
    second = asyncio.create_task(ask(streams, words, headers=key))
    status, headers, body = await ask(streams, words, "0.05", key)
    assert (status, headers["Idempotency-Replayed"], body["question_id"]) == (202, "true", question_id)
    assert not first.done()
    assert not second.done()
    await worker_actions.complete(api_engine, words, "It says so.")
    for reply, replayed in (
        (await first, None),
        (await second, "true"),
        (await ask(streams, words, "60", key), "true"),
    ):
        status, headers, body = reply
        assert (status, headers.get("Idempotency-Replayed")) == (200, replayed)
        assert (body["question_id"], body["answer_text"]) == (question_id, "It says so.")
    status, _, problem = await ask(streams, words + "?", "60", key)
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    assert await worker_actions.stored(api_engine, words) == [question_id]


async def leave(streams: ClientSession, engine: AsyncEngine, words: str, **fields: Any) -> int:
    """Ask, and go away while waiting; the question's id."""
    waiting = asyncio.create_task(ask(streams, words, **fields))
    question_id = await asked(engine, words)
    waiting.cancel()  # closes the connection
    await asyncio.gather(waiting, return_exceptions=True)
    return question_id


async def test_leaving_cancels_a_question_if_that_was_asked_for(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    question_id = await leave(streams, api_engine, words, cancel_on_disconnect=True)

    async def is_cancelled() -> bool:
        return bool((await read(streams, question_id))["status"] == "cancelled")

    await until(is_cancelled)
    status, _, body = await ask(streams, words, "0.05", cancel_on_disconnect=True)
    assert status == 202  # who waits to the end has not left
    assert (await read(streams, body["question_id"]))["status"] == "queued"


async def test_leaving_changes_nothing_otherwise(streams: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    question_id = await leave(streams, api_engine, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    assert (await read(streams, question_id))["status"] == "completed"


async def test_who_waits_for_a_question_that_is_erased_hears_that_it_was_accepted(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    waiting = asyncio.create_task(ask(streams, words))
    question_id = await asked(api_engine, words)
    async with streams.delete(f"/api/answer/{question_id}") as response:
        assert response.status == 200
    status, _, body = await waiting
    assert (status, body["question_id"], body["status"]) == (202, question_id, "queued")
    async with streams.get(f"/api/answer/{question_id}") as response:
        assert response.status == 404
