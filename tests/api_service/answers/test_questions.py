# ruff: noqa: RUF001 - strange letters are what some of this is about
"""Asking, reading and cancelling over HTTP."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from multidict import CIMultiDict
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.answers.phrases import ACCEPTED, FAILED, FAILURES, NOT_READY
from api_service.core.languages import Language
from embedded.valkey import BROKER_DATABASE, Valkey
from live.signals import ENDED_CHANNEL
from questions.states import ErrorReason
from questions.sweeping import sweep
from tests.api_service import worker_actions
from tests.api_service.serving import until
from tests.servers import redis_at

pytestmark = pytest.mark.asyncio(loop_scope="module")

EN, RU = Language.ENGLISH, Language.RUSSIAN


async def post(api: ClientSession, words: str, headers: dict[str, str] | None = None, **fields: Any) -> ClientResponse:
    return await api.post("/api/ask", json={"question_text": words, **fields}, headers=headers)


async def ask(api: ClientSession, words: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    response = await post(api, words, headers, **fields)
    assert response.status in (200, 202), await response.text()
    return await response.json()


async def read(api: ClientSession, question_id: int, headers: dict[str, str] | None = None) -> Any:
    response = await api.get(f"/api/answer/{question_id}", headers=headers)
    assert response.status == 200
    return await response.json()


async def test_a_question_is_accepted(api: ClientSession, words: str) -> None:
    response = await post(api, words)
    body = await response.json()
    assert response.status == 202
    assert body == {
        "question_id": body["question_id"],
        "status": "queued",
        "answer_text": "Your question is being processed. Please try again later.",
        "cached": False,
        "coalesced": False,
    }
    assert type(body["question_id"]) is int
    assert response.headers["Location"] == f"/api/answer/{body['question_id']}"
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Vary"] == "Accept-Language"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("said", "prefix"),
    [
        (["/tools/ask"], "/tools/ask"),
        (["/tools/ask/"], "/tools/ask"),
        (["/a-b_c.d~e"], "/a-b_c.d~e"),
        (["/"], ""),
        ([""], ""),
        (["tools"], ""),
        (["//evil.example.com"], ""),
        (["https://evil.example.com"], ""),
        (["/a b"], ""),
        (["/a?b"], ""),
        (["/a#b"], ""),
        (["/" + "a" * 65], ""),
        (["/a" * 9], ""),
        (["/a", "/b"], ""),
    ],
)
async def test_location_is_where_a_proxy_has_put_the_api(
    api: ClientSession, words: str, said: list[str], prefix: str
) -> None:
    headers = CIMultiDict([("X-Forwarded-Prefix", each) for each in said])
    async with api.post("/api/ask", json={"question_text": words}, headers=headers) as response:
        assert re.fullmatch(re.escape(prefix) + r"/api/answer/\d+", response.headers["Location"])


async def test_a_question_bears_the_request_by_which_it_came(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    first = await ask(api, words, {"X-Request-ID": "mine-1"})
    second = await ask(api, words, {"X-Request-ID": "mine-2"})
    unnamed = await post(api, f"{words} again")
    async with api_engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT q.id, q.request_id, a.request_id FROM questions q JOIN answers a ON a.id = q.answer_id")
        )
        found = {row[0]: (row[1], row[2]) for row in rows}
    given = unnamed.headers["X-Request-ID"]
    assert found[first["question_id"]] == ("mine-1", "mine-1")
    assert found[second["question_id"]] == ("mine-2", "mine-1")  # they share an answer
    assert found[(await unnamed.json())["question_id"]] == (given, given)


async def test_an_answer_comes_with_all_that_is_known_of_it(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    asked_at = datetime.now(UTC)
    response = await post(api, words)
    location = response.headers["Location"]
    waiting = await api.get(location)
    assert int(waiting.headers["Retry-After"]) >= 1
    assert (await waiting.json()).keys() == {"question_id", "status", "answer_text", "created_at"}
    await worker_actions.complete(api_engine, words, "It says yes. 🙂")
    for _ in range(2):  # from PostgreSQL, then from Redis
        finished = await api.get(location)
        body = await finished.json()
        created_at, finished_at = (datetime.fromisoformat(body.pop(name)) for name in ("created_at", "finished_at"))
        assert body == {
            "question_id": (await response.json())["question_id"],
            "status": "completed",
            "answer_text": "It says yes. 🙂",
            "model": "test-model",
            "finish_reason": "stop",
            "usage": {
                "prompt_tokens": 38,
                "completion_tokens": 8,
                "cached_prompt_tokens": 24,
                "total_tokens": 46,
            },
        }
        assert asked_at.timestamp() - 60 < created_at.timestamp() <= finished_at.timestamp()
        assert "Retry-After" not in finished.headers


async def test_a_question_that_a_worker_has_is_in_progress(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    asked = await ask(api, words)
    await worker_actions.start(api_engine, words)
    body = await read(api, asked["question_id"])
    assert (body["status"], body["answer_text"]) == ("in_progress", "The answer is not ready yet.")


async def test_an_answer_that_was_cut_short_says_so(api: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    asked = await ask(api, words)
    await worker_actions.cut_short(api_engine, words, "It says")
    body = await read(api, asked["question_id"])
    assert (body["status"], body["answer_text"], body["finish_reason"]) == ("incomplete", "It says", "output_limit")
    assert "usage" not in body  # the model server did not count


@pytest.mark.parametrize("reason", ErrorReason)
async def test_a_failed_question_says_why_in_the_readers_language(
    api: ClientSession, api_engine: AsyncEngine, words: str, reason: ErrorReason
) -> None:
    asked = await ask(api, words)
    await worker_actions.fail(api_engine, words, reason)
    for language in Language:
        body = await read(api, asked["question_id"], {"Accept-Language": language})
        assert body["status"] == "failed"
        assert body["answer_text"] == FAILED[reason][language]
        assert body["error"] == {"reason": reason, "detail": FAILURES[reason]}
    assert (await ask(api, words))["status"] == "queued"  # a failure is never used again


async def test_a_question_expires_after_the_time_it_was_given(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    asked = await ask(api, words, max_wait_seconds=0.001)
    await asyncio.sleep(0.002)
    await sweep(api_engine, 1)
    body = await read(api, asked["question_id"])
    assert (body["status"], body["answer_text"]) == (
        "expired",
        "The question could not be answered in time. Please ask it again.",
    )


async def test_an_operators_replay_is_shown(api: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    asked = await ask(api, words)
    await api.post(f"/api/answer/{asked['question_id']}/cancel")
    async with api_engine.begin() as connection:
        statement = text("UPDATE questions SET replayed_as = 7 WHERE id = :id")
        await connection.execute(statement, {"id": asked["question_id"]})
    assert (await read(api, asked["question_id"]))["replayed_as"] == 7


@pytest.mark.parametrize(
    ("header", "asked", "language"),
    [
        (None, "Какая столица Франции?", RU),
        (None, "What is the capital of France?", EN),
        (None, "Яка столиця Франції?", EN),
        ("en-US,en;q=0.9", "Какая столица Италии?", EN),
        ("ru", "What is the capital of Italy?", RU),
        ("*", "Какая столица Испании?", RU),
        ("de, fr;q=0.5", "Какая столица Австрии?", RU),
        ("de, fr;q=0.5", "What is the capital of Austria?", EN),
    ],
)
async def test_sentences_follow_the_reader_else_the_question(
    api: ClientSession, header: str | None, asked: str, language: Language
) -> None:
    headers = {} if header is None else {"Accept-Language": header}
    body = await ask(api, asked, headers)
    assert body["answer_text"] == ACCEPTED[language]
    assert (await read(api, body["question_id"], headers))["answer_text"] == NOT_READY[language]


@pytest.mark.parametrize(
    "asked",
    [
        "Что такое «квант»? Ёжик",
        "ما هو الذكاء الاصطناعي؟ \u202bיָד\u202c",
        "👩‍🚀🏳️‍🌈 ok? \U0001fae8",
        "e\u0301 is not \u00e9; ﬁ is not fi",
        "tab\tline\r\nline\u2028and \\ \" ' </script> %00 ${x} {{y}}",
        "\ufeff𝕏\uffff\U0010ffff",
        "  blanks stay  ",
    ],
)
async def test_text_in_any_language_comes_back_unchanged(
    api: ClientSession, api_engine: AsyncEngine, asked: str
) -> None:
    body = await ask(api, asked)
    async with api_engine.connect() as connection:
        statement = text("SELECT text FROM questions WHERE id = :id")
        assert (await connection.execute(statement, {"id": body["question_id"]})).scalar_one() == asked
    await worker_actions.complete(api_engine, asked, asked)
    assert (await read(api, body["question_id"]))["answer_text"] == asked


async def test_the_longest_question_is_taken_in_any_script(api: ClientSession) -> None:
    body = json.dumps({"question_text": "🙂" * 8_000}, ensure_ascii=False)  # as escapes it would have 96,000 bytes
    response = await api.post("/api/ask", data=body.encode(), headers={"Content-Type": "application/json"})
    assert response.status == 202


async def test_the_same_question_in_flight_is_coalesced(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    first = await ask(api, words)
    second = await ask(api, f"  {words}\r\n")
    assert (first["coalesced"], second["coalesced"], second["status"]) == (False, True, "queued")
    await worker_actions.start(api_engine, words)
    third = await ask(api, words)
    assert (third["coalesced"], third["cached"], third["status"]) == (True, False, "in_progress")
    assert len({asked["question_id"] for asked in (first, second, third)}) == 3


async def test_a_finished_answer_is_given_at_once(api: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    response = await post(api, words)
    body = await response.json()
    assert response.status == 200
    assert "Retry-After" not in response.headers
    assert (body["status"], body["answer_text"]) == ("completed", "It says so.")
    assert (body["cached"], body["coalesced"]) == (True, False)
    assert (await read(api, body["question_id"]))["answer_text"] == "It says so."


@pytest.mark.parametrize("header", ["no-cache", "No-Cache", "max-age=0, no-cache"])
async def test_no_cache_asks_anew(api: ClientSession, api_engine: AsyncEngine, words: str, header: str) -> None:
    await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    fresh = await ask(api, words, {"Cache-Control": header})
    assert (fresh["status"], fresh["cached"], fresh["coalesced"]) == ("queued", False, False)


@pytest.mark.parametrize("header", ["no-store", "max-age=0", "x-no-cache"])
async def test_nothing_but_no_cache_does(api: ClientSession, api_engine: AsyncEngine, words: str, header: str) -> None:
    await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    assert (await ask(api, words, {"Cache-Control": header}))["cached"]


async def test_simultaneous_duplicates_under_one_key_are_one_question(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    before = await worker_actions.rows(api_engine)
    key = {"Idempotency-Key": "k-simultaneous"}
    responses = await asyncio.gather(*(post(api, words, key) for _ in range(12)))
    assert {response.status for response in responses} == {202}
    assert len({(await response.json())["question_id"] for response in responses}) == 1
    replayed = [response.headers.get("Idempotency-Replayed") for response in responses]
    assert sorted(replayed, key=str) == [None] + ["true"] * 11
    assert await worker_actions.rows(api_engine) == (before[0] + 1, before[1] + 1)


async def test_a_replay_says_how_its_question_is_now(api: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    key = {"Idempotency-Key": "k" * 255}
    first = await ask(api, words, key, max_wait_seconds=600)
    again = await post(api, words, key)  # the default, left out or sent, is the same
    assert (again.status, again.headers["Idempotency-Replayed"]) == (202, "true")
    await worker_actions.complete(api_engine, words, "It says so.")
    response = await post(api, words, key)
    body = await response.json()
    assert (response.status, response.headers["Idempotency-Replayed"]) == (200, "true")
    assert (body["question_id"], body["answer_text"]) == (first["question_id"], "It says so.")
    assert response.headers["Location"] == f"/api/answer/{first['question_id']}"


async def test_a_key_belongs_to_one_body(api: ClientSession, api_engine: AsyncEngine, words: str) -> None:
    key = {"Idempotency-Key": "!~"}
    await ask(api, words, key)
    before = await worker_actions.rows(api_engine)
    for other in (post(api, words + "?", key), post(api, words, key, max_wait_seconds=10)):
        response = await other
        problem = await response.json()
        assert (response.status, problem["code"]) == (422, "idempotency_key_reused")
        assert problem["errors"][0]["field"] == "Idempotency-Key"
    assert await worker_actions.rows(api_engine) == before


async def test_cancelling_ends_the_question_once_and_frees_its_worker(
    api: ClientSession, api_engine: AsyncEngine, valkey: Valkey, words: str
) -> None:
    asked = await ask(api, words)
    await worker_actions.start(api_engine, words)
    redis = redis_at(valkey.url())
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(redis.name(ENDED_CHANNEL))

    async def listens() -> bool:
        return bool((await redis.pubsub_numsub(redis.name(ENDED_CHANNEL)))[0][1])

    await until(listens)
    bodies = []
    for _ in range(2):
        response = await api.post(f"/api/answer/{asked['question_id']}/cancel")
        assert response.status == 200
        bodies.append(await response.json())
    assert bodies[0] == bodies[1] == await read(api, asked["question_id"])
    assert (bodies[0]["status"], bodies[0]["answer_text"]) == ("cancelled", "The question was cancelled.")
    async with api_engine.connect() as connection:
        statement = text("SELECT answer_id FROM questions WHERE id = :id")
        answer_id = (await connection.execute(statement, {"id": asked["question_id"]})).scalar_one()
    message = None
    async with asyncio.timeout(10):
        while message is None:
            message = await pubsub.get_message(timeout=1)
    assert int(message["data"]) == answer_id
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    await redis.aclose()


async def test_a_cancelled_question_lets_others_have_the_answer(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    first, second = await ask(api, words), await ask(api, words)
    await api.post(f"/api/answer/{first['question_id']}/cancel")
    assert (await read(api, second["question_id"]))["status"] == "queued"
    await worker_actions.complete(api_engine, words, "It says so.")
    assert (await read(api, second["question_id"]))["answer_text"] == "It says so."
    assert (await read(api, first["question_id"]))["status"] == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    asked = await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    before = await read(api, asked["question_id"])
    response = await api.post(f"/api/answer/{asked['question_id']}/cancel")
    assert await response.json() == before


async def test_a_question_of_somebody_else_does_not_exist(
    api: ClientSession, api_engine: AsyncEngine, words: str
) -> None:
    asked = await ask(api, words)
    async with api_engine.begin() as connection:
        statement = text("UPDATE questions SET owner = 'somebody else' WHERE id = :id")
        await connection.execute(statement, {"id": asked["question_id"]})
    for response in (
        await api.get(f"/api/answer/{asked['question_id']}"),
        await api.post(f"/api/answer/{asked['question_id']}/cancel"),
    ):
        assert (response.status, (await response.json())["code"]) == (404, "question_not_found")
    async with api_engine.connect() as connection:
        statement = text("SELECT ended FROM questions WHERE id = :id")
        assert (await connection.execute(statement, {"id": asked["question_id"]})).scalar_one() is None


async def test_a_new_question_wakes_a_worker(api: ClientSession, valkey: Valkey, words: str) -> None:
    async with Redis.from_url(valkey.url(BROKER_DATABASE)) as broker:
        await broker.delete("askmesh.hints")
        await ask(api, words)
        await until(lambda: broker.llen("askmesh.hints"))


async def test_redis_may_forget_every_answer(
    api: ClientSession, api_engine: AsyncEngine, valkey: Valkey, words: str
) -> None:
    asked = await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    before = await read(api, asked["question_id"])
    async with redis_at(valkey.url()) as redis:
        await redis.flushdb()
    assert await read(api, asked["question_id"]) == before


async def test_a_completed_answer_is_read_without_postgresql(
    api: ClientSession, api_engine: AsyncEngine, valkey: Valkey, words: str
) -> None:
    asked = await ask(api, words)
    await worker_actions.complete(api_engine, words, "It says so.")
    before = await read(api, asked["question_id"])
    async with redis_at(valkey.url()) as redis:
        await until(lambda: redis.exists(redis.name("question", 2, asked["question_id"])))
    async with api_engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET text = 'changed' WHERE text = 'It says so.'"))
    assert await read(api, asked["question_id"]) == before
