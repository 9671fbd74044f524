"""The model server that costs next to nothing must still write what it says, at the pace that it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict

import orjson
import pytest

from benchmarks.http_client import HttpClient
from benchmarks.model_server import Profile, answer_text
from benchmarks.stage import model_server

ASK = orjson.dumps({"messages": [{"role": "user", "content": "?"}]})


@pytest.fixture(scope="module")
def url(processes: None) -> Iterator[str]:
    with model_server() as (_, url):
        yield url.removesuffix("/v1")


@pytest.fixture
async def client(url: str) -> AsyncIterator[HttpClient]:
    async with HttpClient(url) as client:
        yield client


async def _set_up(client: HttpClient, profile: Profile) -> None:
    reply = await client.post("/profile", orjson.dumps(asdict(profile)))
    assert reply.status == 200


def _text(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert events.pop() == b"[DONE]"
    choices = [choice for event in events for choice in orjson.loads(event)["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_tokens_come_one_by_one_at_their_pace(client: HttpClient) -> None:
    await _set_up(client, Profile(first=0.05, tokens=5, delay=0.02))
    parts: list[bytes] = []
    began = time.monotonic()
    await client.post("/v1/chat/completions", ASK, on_part=parts.append)
    assert time.monotonic() - began >= 0.05 + 4 * 0.02
    assert len(parts) == 6  # the last token comes with the end
    assert _text(b"".join(parts)) == answer_text(5)


async def test_without_a_delay_all_tokens_come_at_once(client: HttpClient) -> None:
    await _set_up(client, Profile(first=0, tokens=300, delay=0))
    reply = await client.post("/v1/chat/completions", ASK)
    assert _text(reply.body) == answer_text(300)
    stats = orjson.loads((await client.get("/stats")).body)
    assert stats == {"requests": 1, "completed": 1, "tokens": 300}


async def test_what_the_batch_has_no_room_for_waits(client: HttpClient) -> None:
    await _set_up(client, Profile(first=0.01, tokens=3, delay=0.01, batch=4))
    began = time.monotonic()
    replies = await asyncio.gather(*(client.post("/v1/chat/completions", ASK) for _ in range(12)))
    assert {_text(reply.body) for reply in replies} == {answer_text(3)}
    assert time.monotonic() - began >= 3 * 0.03


async def test_a_new_profile_ends_what_is_being_written(client: HttpClient) -> None:
    await _set_up(client, Profile(first=3_600, tokens=4))
    answer = asyncio.create_task(client.post("/v1/chat/completions", ASK))
    async with asyncio.timeout(10):
        while orjson.loads((await client.get("/stats")).body)["requests"] == 0:
            await asyncio.sleep(0.01)
        await _set_up(client, Profile())
        assert _text((await answer).body) == answer_text(4)


async def test_many_at_once_end_whatever_the_moment(client: HttpClient) -> None:
    await _set_up(client, Profile(first=0.001, tokens=20, delay=0.0007, batch=50))
    async with asyncio.timeout(30):
        replies = await asyncio.gather(*(client.post("/v1/chat/completions", ASK) for _ in range(300)))
    assert {_text(reply.body) for reply in replies} == {answer_text(20)}
