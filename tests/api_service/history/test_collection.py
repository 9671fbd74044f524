"""Listing what one asked, and erasing it, by HTTP."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.history.list_cursor import decode_cursor, encode_cursor
from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from questions.listing import ListCursor
from tests.api_service import worker_actions
from tests.api_service.serving import client_of, serving, settings_for
from tests.api_service.sse import ask, read, watching
from tests.api_service.writing import Writer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def listed(api: ClientSession, query: str = "") -> Any:
    async with api.get(f"/api/questions{query}") as response:
        assert response.status == 200, await response.text()
        assert response.headers["Cache-Control"] == "no-store"
        return await response.json()


async def erase(api: ClientSession, question_id: int) -> tuple[int, Any]:
    async with api.delete(f"/api/answer/{question_id}") as response:
        return response.status, await response.json()


async def test_what_was_asked_is_listed_newest_first_page_by_page(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    ids = [await ask(api, f"{words} {number}") for number in range(5)]
    await worker_actions.complete(api_engine, f"{words} 1", "because")
    page = await listed(api, "?limit=3")
    assert [entry["question_id"] for entry in page["questions"]] == ids[:1:-1]
    assert page["questions"][0].keys() == {"question_id", "status", "question_text", "created_at"}
    rest = await listed(api, f"?limit=100&cursor={page['next_cursor']}")
    assert [entry["question_id"] for entry in rest["questions"]][:2] == ids[1::-1]
    assert rest.get("next_cursor") is None
    first = rest["questions"][0]
    now = await read(api, ids[1])
    assert first == {
        "question_id": ids[1],
        "status": "completed",
        "question_text": f"{words} 1",
        "created_at": now["created_at"],
        "finished_at": now["finished_at"],
    }
    (since, before) = (page["questions"][-1]["created_at"], page["questions"][0]["created_at"])
    between = await listed(api, f"?created_since={since}&created_before={before}")
    assert [entry["question_id"] for entry in between["questions"]] == [ids[3], ids[2]]
    done = await listed(api, f"?status=completed&status=failed&created_since={first['created_at']}")
    assert [entry["question_id"] for entry in done["questions"]] == [ids[1]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=1e1", "limit"),
        ("?limit=%D9%A1", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?cursor=", "cursor"),
        ("?cursor=x", "cursor"),
        ("?cursor=MQ", "cursor"),
        ("?cursor=MTow", "cursor"),
        ("?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OjE", "cursor"),
        (f"?cursor={'A' * 5_000}", "cursor"),
        ("?cursor=%FF%FE", "cursor"),
        ("?status=done", "status"),
        ("?status=", "status"),
        ("?created_since=yesterday", "created_since"),
        ("?created_since=2026-01-31", "created_since"),
        ("?created_since=2026-01-31T12:00:00", "created_since"),
        ("?created_before=2026-02-31T12:00:00Z", "created_before"),
        ("?created_before=0001-01-01T00:00:00%2B12:00", "created_before"),
        ("?created_before=2026-01-31T12:00:00+01:00", "created_before"),
        ("?statuses=queued", "statuses"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(api: ClientSession, query: str, field: str) -> None:
    async with api.get(f"/api/questions{query}") as response:
        problem = await response.json()
        assert (response.status, problem["code"]) == (400, "invalid_parameter")
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_a_plus_that_came_as_a_space_is_explained(api: ClientSession) -> None:
    async with api.get("/api/questions?created_since=2026-01-31T12:00:00+02:00") as response:
        assert response.status == 400
        assert "a + is written as %2B" in (await response.json())["detail"]


async def test_times_at_the_ends_of_the_calendar_are_taken(api: ClientSession) -> None:
    query = "?created_since=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999Z&limit=1"
    assert len((await listed(api, query))["questions"]) == 1


async def test_a_cursor_reads_as_it_was_written(api: ClientSession) -> None:
    page = await listed(api, "?limit=1")
    place = decode_cursor(page["next_cursor"])
    assert place is not None
    assert place.question_id == page["questions"][0]["question_id"]
    assert encode_cursor(ListCursor(place.created_at, place.question_id)) == page["next_cursor"]


async def test_an_erased_question_is_gone_everywhere(
    api: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, api_database_url: str, valkey: Valkey, words: str
) -> None:
    headers = {"Idempotency-Key": "of-an-erased-question"}
    asked = await (await api.post("/api/ask", json={"question_text": words}, headers=headers)).json()
    question_id = asked["question_id"]
    await worker_actions.complete(api_engine, words, "a secret answer")
    async with serving(settings_for(api_database_url, valkey)) as url, client_of(url) as other:
        for replica in (api, other, api):
            assert (await read(replica, question_id))["answer_text"] == "a secret answer"
        assert await erase(api, question_id) == (200, {"question_id": question_id, "answer": "erased"})
        for replica in (api, other):
            for path in ("", "/events", "?wait=1"):
                async with replica.get(f"/api/answer/{question_id}{path}") as response:
                    assert response.status == 404
            assert (await erase(replica, question_id))[0] == 404
            assert question_id not in [entry["question_id"] for entry in (await listed(replica))["questions"]]
    for key in await api_redis.keys("*"):
        if await api_redis.type(key) == b"string":
            assert b"a secret answer" not in (await api_redis.get(key) or b"")
    again = await api.post("/api/ask", json={"question_text": f"{words} again"}, headers=headers)
    assert again.status == 202
    assert "Idempotency-Replayed" not in again.headers


async def test_whoever_waits_for_an_erased_question_is_told(
    api: ClientSession, streams: ClientSession, api_engine: AsyncEngine, api_redis: MeshRedis, words: str
) -> None:
    question_id = await ask(api, words)
    writer = await Writer.begin(api_engine, api_redis, words)
    waiting = asyncio.create_task(api.get(f"/api/answer/{question_id}?wait=30").__aenter__())
    async with watching(streams, question_id) as stream:
        await writer.write("The capital of")
        assert await stream.text(3)
        assert await erase(api, question_id) == (200, {"question_id": question_id, "answer": "erased"})
        assert [event for event in await stream.rest() if event.name != "delta"] == []
    assert (await waiting).status == 404


async def test_an_answer_that_others_have_stays_for_them(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    first = await ask(api, words)
    await worker_actions.complete(api_engine, words, "because")
    second = await ask(api, words)
    assert await erase(api, first) == (200, {"question_id": first, "answer": "kept"})
    assert (await read(api, second))["answer_text"] == "because"
    third = await ask(api, words)
    assert (await read(api, third))["status"] == "queued"


async def test_nothing_is_erased_without_redis(api_database_url: str, words: str) -> None:
    class Nowhere:
        broker_url = "redis://127.0.0.1:1/1"

        def url(self) -> str:
            return "redis://127.0.0.1:1/0"

    async with serving(settings_for(api_database_url, Nowhere())) as url, client_of(url) as api:  # type: ignore[arg-type]
        question_id = await ask(api, words)
        status, problem = await erase(api, question_id)
        assert (status, problem["code"], problem["retryable"]) == (503, "erasure_unavailable", True)
        assert (await read(api, question_id))["status"] == "queued"
