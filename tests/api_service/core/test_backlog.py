import asyncio

import pytest
from aiohttp import ClientResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.http.problems import Problem
from embedded.valkey import Valkey
from foundation.settings import LimitSettings
from tests.api_service import worker_actions
from tests.api_service.serving import client_of, serving, settings_for, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_questions_are_refused_beyond_the_limit_and_taken_again_below_it(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine
) -> None:
    settings = settings_for(api_database_url, valkey, backlog_limit=2)
    async with serving(settings) as url, client_of(url) as client:

        async def status(words: str) -> int:
            async with client.post("/api/ask", json={"question_text": words}) as response:
                return response.status

        asked = 0

        async def is_full() -> bool:
            nonlocal asked
            asked += 1
            return await status(f"question {asked}?") == 503

        await until(is_full)
        before = await worker_actions.rows(api_engine)
        assert before[0] == asked - 1 >= 2
        response = await client.post("/api/ask", json={"question_text": "one more?"})
        problem = Problem.model_validate_json(await response.read())
        assert (problem.code, problem.retryable) == ("backlog_full", True)
        assert int(response.headers["Retry-After"]) >= 1
        assert await worker_actions.rows(api_engine) == before
        assert (await client.get("/readyz")).status == 200

        await asyncio.gather(*(client.post(f"/api/answer/{question_id}/cancel") for question_id in range(1, asked)))

        async def is_taken() -> bool:
            return await status("one more?") == 202

        await until(is_taken)


async def test_what_needs_no_new_answer_is_taken_however_many_wait(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine
) -> None:
    settings = settings_for(
        api_database_url, valkey, limits=LimitSettings(limit_requests_per_minute=1_000), backlog_limit=2
    )
    async with serving(settings) as url, client_of(url) as client:

        async def ask(words: str, **headers: str) -> ClientResponse:
            return await client.post("/api/ask", json={"question_text": words}, headers=headers)

        finished = await ask("finished?")
        await worker_actions.complete(api_engine, "finished?", "it is")
        repeated = await ask("repeated?", **{"Idempotency-Key": "first"})
        await worker_actions.complete(api_engine, "repeated?", "it was")
        filling = 0

        async def is_full() -> bool:
            nonlocal filling
            filling += 1
            return (await ask(f"filling {filling}?")).status == 503

        await until(is_full)
        before = await worker_actions.rows(api_engine)
        left = int((await ask("filling 1?")).headers["x-ratelimit-remaining-requests"])
        again = await ask("repeated?", **{"Idempotency-Key": "first"})
        assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
        assert (await again.json())["question_id"] == (await repeated.json())["question_id"]
        expected: list[tuple[str, dict[str, str], int, dict[str, object]]] = [
            ("finished?", {}, 200, {"cached": True}),
            ("finished?", {"Idempotency-Key": "second"}, 200, {"cached": True}),
            ("filling 1?", {}, 202, {"coalesced": True}),
            ("filling 1?", {"Idempotency-Key": "third"}, 202, {"coalesced": True}),
            ("finished?", {"Cache-Control": "no-cache"}, 503, {"code": "backlog_full"}),
            ("filling 1?", {"Cache-Control": "no-cache"}, 503, {"code": "backlog_full"}),
            ("new?", {}, 503, {"code": "backlog_full"}),
            ("new?", {"Idempotency-Key": "fourth"}, 503, {"code": "backlog_full"}),
        ]
        for words, headers, status, said in expected:
            response = await ask(words, **headers)
            body = await response.json()
            assert (response.status, said.items() <= body.items()) == (status, True), (words, headers, body)
        reused = await ask("repeated, but not the same?", **{"Idempotency-Key": "first"})
        assert reused.status == 422
        assert (await worker_actions.rows(api_engine))[1] == before[1], "no answer was made"
        after = int((await ask("filling 1?")).headers["x-ratelimit-remaining-requests"])
        assert left - after <= 1 + 4 + 1, "what was refused or repeated took no request; a bucket refills meanwhile"
        assert finished.status == 202
