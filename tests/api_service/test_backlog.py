import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.problems import Problem
from embedded.valkey import Valkey
from tests.api_service import answers
from tests.api_service.serving import client_of, serving, settings_for, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


async def test_questions_are_refused_beyond_the_limit_and_taken_again_below_it(
    database_url: str, valkey: Valkey, engine: AsyncEngine
) -> None:
    settings = settings_for(database_url, valkey, backlog_limit=2)
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
        before = await answers.rows(engine)
        assert before[0] == asked - 1 >= 2
        response = await client.post("/api/ask", json={"question_text": "one more?"})
        problem = Problem.model_validate_json(await response.read())
        assert (problem.code, problem.retryable) == ("backlog_full", True)
        assert int(response.headers["Retry-After"]) >= 1
        assert await answers.rows(engine) == before
        assert (await client.get("/readyz")).status == 200

        await asyncio.gather(*(client.post(f"/api/answer/{question_id}/cancel") for question_id in range(1, asked)))

        async def is_taken() -> bool:
            return await status("one more?") == 202

        await until(is_taken)
