"""Asking and watching in one request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from questions.states import State
from tests.api_service import worker_actions
from tests.api_service.serving import until
from tests.api_service.sse import Stream, ask, read, text_of, watch
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = {"Accept": "text/event-stream"}


@asynccontextmanager
async def asking(
    api: ClientSession, words: str, headers: dict[str, str] | None = None, **fields: Any
) -> AsyncIterator[Stream]:
    timeout = ClientTimeout(total=None, sock_read=30)
    body = {"question_text": words, **fields}
    async with api.post("/api/ask", json=body, headers=EVENTS | (headers or {}), timeout=timeout) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


async def test_a_question_is_asked_and_watched(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    async with asking(streams, words, {"X-Forwarded-Prefix": "/tools"}) as stream:
        first = await stream.next()
        question_id = first.data["question_id"]
        assert first.name == "status"
        assert first.data == {"question_id": question_id, "status": "queued", "cached": False, "coalesced": False}
        assert stream.response.headers["Location"] == f"/tools/api/answer/{question_id}"
        writer = await Writer.begin(api_engine, api_redis, words)
        await writer.write("It says ")
        assert await stream.text(8) == "It says "
        await writer.write("so.")
        await writer.complete()
        events = await stream.rest()
    assert text_of(events) == "so."
    assert events[-1].data == await read(streams, question_id)
    assert text_of(await watch(streams, question_id, "0:8")) == "so."  # and elsewhere, with the first event's id


async def test_an_answer_that_is_there_already_comes_at_once(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    await ask(streams, words)
    async with asking(streams, words) as stream:
        assert (await stream.next()).data["coalesced"] is True
        await worker_actions.complete(api_engine, words, "It says so.")
        await stream.rest()
    async with asking(streams, words) as stream:
        first, *rest = await stream.rest()
    assert first.data == {
        "question_id": rest[-1].data["question_id"],
        "status": "completed",
        "cached": True,
        "coalesced": False,
    }
    assert [event.name for event in rest] == ["delta", "completed"]
    assert text_of(rest) == "It says so."


async def test_an_idempotency_key_gives_the_same_question(
    streams: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    key = {"Idempotency-Key": words.replace(" ", "_")}
    async with asking(streams, words, key) as stream:
        question_id = (await stream.next()).data["question_id"]
        assert "Idempotency-Replayed" not in stream.response.headers
    async with asking(streams, words, key, cancel_on_disconnect=False) as stream:
        assert (await stream.next()).data["question_id"] == question_id
        assert stream.response.headers["Idempotency-Replayed"] == "true"
        await worker_actions.complete(api_engine, words, "It says so.")
        assert (await stream.rest())[-1].name == "completed"
    body = {"question_text": words, "cancel_on_disconnect": True}
    async with streams.post("/api/ask", json=body, headers=key | EVENTS) as response:
        assert (response.status, (await response.json())["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "question_text"),
        ({"question_text": "why?", "cancel_on_disconnect": 1}, "cancel_on_disconnect"),
        ({"question_text": "why?", "cancel_on_disconnect": "true"}, "cancel_on_disconnect"),
    ],
)
async def test_what_is_refused_is_a_problem_and_no_stream(
    streams: ClientSession, body: dict[str, Any], field: str
) -> None:
    async with streams.post("/api/ask", json=body, headers=EVENTS) as response:
        problem = await response.json()
        assert (response.status, response.content_type) == (422, "application/problem+json")
        assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json;q=0.5, Text/Event-Stream;q=0.9", "text/event-stream"),
        ("text/event-stream;q=0", "application/json"),
        ("text/event-stream;q=0.000", "application/json"),
        ("*/*", "application/json"),
        ("text/*", "application/json"),
        ("application/json", "application/json"),
    ],
)
async def test_only_who_accepts_events_gets_them(
    streams: ClientSession, words: str, accept: str, media_type: str
) -> None:
    async with streams.post("/api/ask", json={"question_text": words}, headers={"Accept": accept}) as response:
        assert response.content_type == media_type


async def leave(streams: ClientSession, words: str, **fields: Any) -> int:
    async with asking(streams, words, **fields) as stream:
        question_id: int = (await stream.next()).data["question_id"]
        return question_id  # leaving the block closes the connection


async def test_leaving_cancels_a_question_if_that_was_asked_for(
    streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await leave(streams, words, cancel_on_disconnect=True)

    async def is_cancelled() -> bool:
        return bool((await read(streams, question_id))["status"] == State.CANCELLED)

    await until(is_cancelled)
    async with asking(streams, words + "?", cancel_on_disconnect=True) as stream:
        question_id = (await stream.next()).data["question_id"]
        writer = await Writer.begin(api_engine, api_redis, words + "?")
        await writer.write("It says")
        await stream.text(7)
    await until(is_cancelled)
    async with asking(streams, words + "!", cancel_on_disconnect=True) as stream:
        question_id = (await stream.next()).data["question_id"]
        await worker_actions.complete(api_engine, words + "!", "It says so.")
        await stream.rest()
    assert (await read(streams, question_id))["status"] == "completed"


async def test_leaving_changes_nothing_otherwise(streams: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    question_id = await leave(streams, words)
    watched = asyncio.create_task(watch(streams, question_id))
    await leave(streams, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    assert (await watched)[-1].name == "completed"
