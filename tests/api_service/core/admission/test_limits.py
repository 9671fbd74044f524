"""Limits of owners, over two replicas."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.datastructures import Headers

from api_service.app import create_app
from api_service.core.admission.limits import FREE, Limits
from api_service.core.admission.request_rate import RequestRate
from api_service.core.principal import LOCAL, Principal
from api_service.core.turns import TurnKeeper
from embedded.valkey import Valkey
from foundation.postgresql.database import Database
from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from foundation.settings import LimitSettings
from owners.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitError, refusal
from owners.limits import LimitOverrides
from owners.roles import Role
from tests.api_service import worker_actions
from tests.api_service.serving import client_of, serving_app, settings_for, until
from tests.servers import redis_at

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Trusting:
    """Takes a caller for who the test says it is, with limits of a key of its own."""

    async def principal(self, headers: Headers) -> Principal:
        given = {name.removeprefix("limit-"): int(value) for name, value in headers.items() if "limit-" in name}
        limits = LimitOverrides(**{name.replace("-", "_"): value for name, value in given.items()})
        tenant = headers.get("tenant", "local")
        return Principal(tenant, Role(headers.get("role", "user")), zlib.crc32(tenant.encode()), limits)


@asynccontextmanager
async def replica(database_url: str, valkey: Valkey) -> AsyncIterator[ClientSession]:
    app = create_app(settings_for(database_url, valkey))
    with patch("api_service.app._authenticator", AsyncMock(return_value=Trusting())):
        async with serving_app(app) as url, client_of(url) as client:
            yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(api_database_url: str, valkey: Valkey, api_redis: MeshRedis) -> AsyncIterator[list[ClientSession]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(replica(api_database_url, valkey)) for _ in range(2)]


async def ask(client: ClientSession, tenant: str, words: str, key: str = "", /, **limits: Any) -> ClientResponse:
    query = {"wait": limits.pop("wait")} if "wait" in limits else {}
    headers = {"tenant": tenant, "role": limits.pop("role", "user")}
    if key:
        headers["Idempotency-Key"] = key
    fields = {"priority": limits.pop("priority")} if "priority" in limits else {}
    headers |= {f"limit-{name.replace('_', '-')}": str(limit) for name, limit in limits.items()}
    return await client.post("/api/ask", params=query, json={"question_text": words, **fields}, headers=headers)


async def refused(response: ClientResponse) -> str:
    assert response.status == 429, await response.text()
    assert int(response.headers["Retry-After"]) >= 1
    problem = await response.json()
    assert problem["retryable"] is True
    return str(problem["code"])


async def execute(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


async def test_requests_are_counted_exactly_over_replicas_and_a_repetition_is_free(
    replicas: list[ClientSession],
) -> None:
    first = await ask(replicas[0], "rate", "why 0?", "key0", requests_per_minute=6)
    assert first.headers["x-ratelimit-limit-requests"] == "6"
    assert first.headers["x-ratelimit-remaining-requests"] == "5"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    replies = await asyncio.gather(
        *(ask(replicas[n % 2], "rate", f"why {n}?", requests_per_minute=6) for n in range(1, 13))
    )
    assert sorted(reply.status for reply in replies) == [202] * 5 + [429] * 7
    last = next(reply for reply in replies if reply.status == 429)
    assert await refused(last) == "rate_limited"
    assert 1 <= int(last.headers["Retry-After"]) <= 10
    assert last.headers["x-ratelimit-remaining-requests"] == "0"
    again = await ask(replicas[1], "rate", "why 0?", "key0", requests_per_minute=6)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert (await again.json())["question_id"] == (await first.json())["question_id"]
    assert (await ask(replicas[0], "another", "why?")).status == 202


async def test_a_repetition_gives_back_what_it_took(replicas: list[ClientSession]) -> None:
    for _ in range(4):
        assert (await ask(replicas[0], "again", "why?", "key", requests_per_minute=3)).status == 202
    reply = await ask(replicas[0], "again", "how?", requests_per_minute=3)
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"


@pytest.mark.parametrize("limit", ["concurrent_questions", "queued_questions"])
async def test_places_are_counted_exactly_over_replicas_and_sharing_takes_none(
    replicas: list[ClientSession], limit: str
) -> None:
    replies = await asyncio.gather(*(ask(replicas[n % 2], limit, f"{limit} {n}?", **{limit: 3}) for n in range(12)))
    assert sorted(reply.status for reply in replies) == [202] * 3 + [429] * 9
    taken = next(n for n, reply in enumerate(replies) if reply.status == 202)
    assert await refused(next(reply for reply in replies if reply.status == 429)) == "too_many_questions"
    shared = await ask(replicas[0], limit, f"{limit} {taken}?", **{limit: 3})
    assert (shared.status, (await shared.json())["coalesced"]) == (202, True)
    question_id = (await replies[taken].json())["question_id"]
    for number in (question_id, (await shared.json())["question_id"]):
        await replicas[0].post(f"/api/answer/{number}/cancel", headers={"tenant": limit})
    assert (await ask(replicas[0], limit, "one more?", **{limit: 3})).status == 202


async def test_tokens_that_were_taken_refuse_what_follows(
    replicas: list[ClientSession], api_engine: AsyncEngine
) -> None:
    free = await ask(replicas[0], "tokens", "first?", tokens_per_minute=100)
    assert (free.status, free.headers["x-ratelimit-remaining-tokens"]) == (202, "100")
    await worker_actions.complete(api_engine, "first?", "an answer", reuse_seconds=60)  # 46 tokens
    await execute(
        api_engine, "UPDATE ledger_entries SET prompt_tokens = 80 WHERE owner = 'tokens' AND prompt_tokens > 0"
    )
    budgets = {"tokens_per_minute": 88, "tokens_per_day": 1_000}
    reply = await ask(replicas[1], "tokens", "second?", **budgets)
    assert await refused(reply) == "rate_limited"
    assert 50 <= int(reply.headers["Retry-After"]) <= 61
    assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
    for limit in ("tokens_per_day", "tokens_per_month"):
        reply = await ask(replicas[1], "tokens", "second?", **{limit: 88})
        assert await refused(reply) == "budget_spent"
        assert (await ask(replicas[1], "tokens", f"{limit}?", **{limit: 89})).status == 202


async def test_streams_and_waits_are_counted_until_they_end(replicas: list[ClientSession]) -> None:
    question_id = (await (await ask(replicas[0], "streams", "why?")).json())["question_id"]
    headers = {"tenant": "streams", "limit-streams": "1"}
    url = f"/api/answer/{question_id}/events"
    # A session that does not read to the end by itself.
    async with ClientSession(replicas[0]._base_url) as streams, streams.get(url, headers=headers) as stream:
        await stream.content.readany()
        for path in (url, f"/api/answer/{question_id}?wait=1"):
            assert await refused(await replicas[0].get(path, headers=headers)) == "too_many_streams"
        assert (await replicas[0].get(f"/api/answer/{question_id}", headers=headers)).status == 200

    async def status() -> int:
        return (await replicas[0].get(f"/api/answer/{question_id}?wait=0.01", headers=headers)).status

    async with asyncio.timeout(30):
        while await status() != 200:
            await asyncio.sleep(0.01)


async def test_who_asks_and_waits_is_counted_before_anything_is_stored(replicas: list[ClientSession]) -> None:
    replies = await asyncio.gather(*(ask(replicas[0], "waits", f"wait {n}?", wait="2", streams=2) for n in range(6)))
    assert sorted(reply.status for reply in replies) == [202] * 2 + [429] * 4
    assert await refused(next(reply for reply in replies if reply.status == 429)) == "too_many_streams"
    async with replicas[0].get("/api/questions", headers={"tenant": "waits"}) as response:
        assert len((await response.json())["questions"]) == 2
    assert (await ask(replicas[0], "waits", "wait no more?", wait="0.01", streams=1)).status == 202


@pytest.mark.parametrize("way", ["follow", "ask"])
async def test_streams_that_begin_in_one_moment_are_as_many_as_may_be(replicas: list[ClientSession], way: str) -> None:
    headers = {"tenant": f"crowd {way}", "limit-streams": "2", "Accept": "text/event-stream"}
    question_id = (await (await ask(replicas[0], f"crowd {way}", "crowd?")).json())["question_id"]
    async with ClientSession(replicas[0]._base_url) as streams:

        async def begin() -> ClientResponse:
            if way == "follow":
                return await streams.get(f"/api/answer/{question_id}/events", headers=headers)
            return await streams.post("/api/ask", json={"question_text": "crowd?"}, headers=headers)

        begun = await asyncio.gather(*(begin() for _ in range(40)))
        assert sorted(one.status for one in begun) == [200] * 2 + [429] * 38

        async def all_is_free() -> bool:
            one = await begin()
            one.close()
            return one.status == 200

        for one in begun:
            one.close()
        await until(all_is_free)
    # What fails before the stream begins holds nothing.
    for _ in range(3):
        missing = await replicas[0].get("/api/answer/9000000000/events", headers=headers)
        assert missing.status == 404
        wrong = await replicas[0].post("/api/ask", json={"question_text": ""}, headers=headers)
        assert wrong.status == 422


async def test_who_waits_for_the_owners_other_questions_keeps_no_other_owner_waiting(
    replicas: list[ClientSession], api_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def count(connection: AsyncConnection, owner: str, limit: ConcurrencyLimit) -> ConcurrencyLimitError | None:
        nonlocal tried
        tried += owner == "held"
        return await refusal(connection, owner, limit)

    async def is_tried() -> bool:
        return tried >= 4

    monkeypatch.setattr("questions.asking.refusal", count)
    lock = int.from_bytes(hashlib.sha256(b"askmesh room held").digest()[:8], "big", signed=True)
    async with api_engine.connect() as frozen:
        await frozen.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
        waiting = [
            asyncio.create_task(ask(replicas[n % 2], "held", f"held {n}?", concurrent_questions=50)) for n in range(40)
        ]
        await until(is_tried)
        for replica in replicas:
            async with asyncio.timeout(5):
                for number in range(10):
                    assert (await ask(replica, "free", f"free {number}?", concurrent_questions=50)).status == 202
        assert not any(task.done() for task in waiting)
        await frozen.rollback()
    replies = await asyncio.gather(*waiting)
    assert [reply.status for reply in replies] == [202] * 40


async def test_who_waits_too_long_for_the_owners_other_questions_is_told_to_come_again(
    replicas: list[ClientSession], api_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("questions.asking._PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("api_service.core.admission.owner_locks._PATIENCE_SECONDS", 0.2)
    lock = int.from_bytes(hashlib.sha256(b"askmesh room too long").digest()[:8], "big", signed=True)
    async with api_engine.connect() as frozen:
        await frozen.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
        replies = await asyncio.gather(
            *(ask(replicas[0], "too long", f"long {n}?", concurrent_questions=50) for n in range(3))
        )
        assert [reply.status for reply in replies] == [503] * 3
        assert {(await reply.json())["code"] for reply in replies} == {"database_unavailable"}
    assert (await ask(replicas[0], "too long", "now?", concurrent_questions=50)).status == 202


async def test_entries_are_folded_although_no_worker_runs(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(
        api_engine,
        """INSERT INTO ledger_entries (owner, at, requests)
        SELECT 'unfolded', clock_timestamp() - interval '2 minutes', 1 FROM generate_series(1, 25000)""",
    )
    monkeypatch.setattr("api_service.app._FOLD_SECONDS", 0.05)
    async with replica(api_database_url, valkey):

        async def is_folded() -> bool:
            async with api_engine.connect() as connection:
                left = "SELECT count(*) FROM ledger_entries WHERE owner = 'unfolded'"
                return bool((await connection.execute(text(left))).scalar_one() == 0)

        await until(is_folded)


async def test_priority_takes_a_role_and_is_no_part_of_the_answer(
    replicas: list[ClientSession], api_engine: AsyncEngine
) -> None:
    reply = await ask(replicas[0], "priority", "why?", priority="high")
    assert (reply.status, (await reply.json())["errors"][0]["field"]) == (403, "priority")
    assert (await ask(replicas[0], "priority", "why?", priority="urgent", role="operator")).status == 422
    assert (await ask(replicas[0], "priority", "why?", "k", priority="normal")).status == 202
    assert (await ask(replicas[0], "priority", "why?", "k")).headers["Idempotency-Replayed"] == "true"
    assert (await ask(replicas[0], "priority", "why?", "k", priority="low", role="operator")).status == 422
    shared = await ask(replicas[0], "priority", "why?", priority="high", role="operator")
    assert (await shared.json())["coalesced"] is True


async def test_usage_is_the_callers_own_unless_it_is_an_operator(
    replicas: list[ClientSession], api_engine: AsyncEngine
) -> None:
    await ask(replicas[0], "usage", "usage?")
    await worker_actions.complete(api_engine, "usage?", "an answer")
    async with replicas[1].get("/api/usage", headers={"tenant": "usage", "limit-tokens-per-day": "9"}) as response:
        body = await response.json()
    total = {"requests": 1, "prompt_tokens": 38, "completion_tokens": 8, "cached_prompt_tokens": 24}
    total |= {"repeated_tokens": 0, "total_tokens": 46}
    assert body["total"] == total
    assert body["days"] == [{**total, "day": body["to"]}]
    assert body["budgets"] == {"tokens_per_day": 9}
    url = "/api/usage?tenant=usage"
    assert (await replicas[0].get(url, headers={"tenant": "other"})).status == 403
    operator = {"role": "operator", "limit-tokens-per-day": "7"}
    async with replicas[0].get(url, headers={"tenant": "other", **operator}) as response:
        body = await response.json()
    assert body["total"] == total
    assert "budgets" not in body, "those of the operator's key say nothing about another tenant"
    async with replicas[0].get(url, headers={"tenant": "usage", **operator}) as response:
        assert (await response.json())["budgets"] == {"tokens_per_day": 7}


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("from=yesterday", "from is not a day: send for example from=2026-01-31."),
        ("from=", "from is not a day: "),
        ("to=", "to is not a day: "),
        ("from=2026-1-1", "from is not a day: "),
        ("from=2026-02-05&to=2026-02-03", "that end on 2026-02-03, the value of to: send for example from=2026-02-01."),
        ("from=2020-01-01&to=2026-01-01", "from is not within the 366 days that end on 2026-01-01"),
        ("to=1&to=2", "to appears more than once: send it once."),
        ("form=2026-01-01", "form is not known: send from, to, tenant, or none of them."),
        ("tenant=", "tenant is not the name of a tenant"),
        ("tenant=a%20b", "tenant is not the name of a tenant"),
        (f"tenant={'a' * 256}", "tenant is not the name of a tenant"),
    ],
)
async def test_usage_says_what_is_wrong_with_a_parameter(
    replicas: list[ClientSession], query: str, detail: str
) -> None:
    async with replicas[0].get(f"/api/usage?{query}", headers={"role": "operator"}) as response:
        assert response.status == 400
        assert detail in (await response.json())["detail"]


async def test_where_nothing_is_limited_nothing_is_looked_up(api_engine: AsyncEngine, api_redis: MeshRedis) -> None:
    database = Database(api_engine, Reachability.of("PostgreSQL", "tests wait"))
    assert await Limits(LimitSettings(), database, api_redis, TurnKeeper(api_engine)).admit(LOCAL) is FREE


@pytest.mark.loopback
async def test_without_redis_each_process_counts_by_itself() -> None:
    away = redis_at("redis://127.0.0.1:1")
    rate = RequestRate(away)
    taken = [await rate.take("owner a", 3) for _ in range(4)]
    assert [one.allowed for one in taken] == [True, True, True, False]
    assert [one.remaining for one in taken] == [2, 1, 0, 0]
    assert 0 < taken[-1].retry_after <= 20
    await rate.take("owner a", 3, -1)
    assert (await rate.take("owner a", 3)).allowed
    await away.aclose()
