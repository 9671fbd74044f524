"""Watching an answer appear."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from tests.api_service.serving import serving, settings_for
from tests.api_service.sse import Event, watching
from tests.api_service.writing import Writer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(database_url: str, valkey: Valkey) -> AsyncIterator[ClientSession]:
    """A client that leaves bodies to be read bit by bit."""
    async with serving(settings_for(database_url, valkey)) as url, ClientSession(url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(valkey.url())
    yield client
    await client.aclose()


async def ask(api: ClientSession, words: str) -> int:
    async with api.post("/api/ask", json={"question_text": words}) as response:
        assert response.status == 202
        question_id: int = (await response.json())["question_id"]
        return question_id


def without_positions(events: list[Event]) -> list[Event]:
    """Without those that only say where in the queue the question is, which come when they come."""
    return [event for event in events if event.data.get("status") != "queued"]


async def test_an_answer_is_watched_from_the_queue_to_its_end(
    api: ClientSession, engine: AsyncEngine, redis: Redis, words: str
) -> None:
    question_id = await ask(api, words)
    async with watching(api, question_id) as stream:
        assert await stream.next() == Event("status", {"question_id": question_id, "status": "queued"})
        writer = await Writer.begin(engine, redis, words)
        await writer.write("The capital", " of Frañce is")
        assert await stream.text(24) == "The capital of Frañce is"
        await writer.write(" Paris.")
        await writer.complete()
        *deltas, final = await stream.rest()
    async with api.get(f"/api/answer/{question_id}") as response:
        answer = await response.json()
    assert deltas == [Event("delta", {"text": " Paris."}, "0:32")]
    assert final == Event("completed", answer, "0:32:end")
    assert answer["answer_text"] == "The capital of Frañce is Paris."
