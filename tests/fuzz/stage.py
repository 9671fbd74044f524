"""An API that two tenants use at once, with a worker that answers what they ask."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from foundation.settings import AccessSettings
from live import answer_stream
from live.answer_stream import RunningUsage, TextAppend
from owners.api_keys import create
from owners.roles import Role
from owners.token_counts import TokenCounts
from questions import claims, worker_leases
from questions.states import ErrorReason, FinishReason, State
from tests.api_service.serving import serving_app, settings_for, until
from tests.questions.actors import asked

# Each is answered, deleted or cancelled within a run, so that the first few cases are not the only ones to find one.
_QUESTIONS_EACH = 30


@dataclass(frozen=True)
class Tenant:
    """``mark`` stands in each of its questions, and so in each of their answers; nobody else knows it."""

    name: str
    key: str
    mark: str
    question_ids: Sequence[int]


@asynccontextmanager
async def two_tenants(
    database_url: str, valkey: Valkey, engine: AsyncEngine, redis: MeshRedis
) -> AsyncIterator[tuple[str, Tenant, Tenant]]:
    """The URL of the API, and two who have asked it already."""
    app = create_app(settings_for(database_url, valkey, AccessSettings(require_auth=True)))
    working = asyncio.create_task(_work(engine, redis))
    try:
        async with serving_app(app) as url:
            alice, bob = [await _tenant(engine, url, name) for name in ("alice", "bob")]
            yield url, alice, bob
            assert not working.done(), working.exception()
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def _tenant(engine: AsyncEngine, url: str, name: str) -> Tenant:
    key, _ = await create(engine, name, Role.USER)
    mark = f"mark-of-{name}"
    async with ClientSession(url, headers={"X-API-Key": key}) as client:

        async def ask(number: int) -> int:
            reply = await client.post("/api/ask", json={"question_text": f"{mark} {number}"})
            assert reply.status == 202, await reply.text()
            question_id: int = (await reply.json())["question_id"]
            return question_id

        question_ids = [await ask(number) for number in range(_QUESTIONS_EACH)]

        async def answered() -> bool:
            reply = await client.get(f"/api/answer/{question_ids[-1]}")
            return str((await reply.json())["status"]) not in ("queued", "in_progress")

        await until(answered)
    return Tenant(name, key, mark, question_ids)


async def _work(engine: AsyncEngine, redis: MeshRedis) -> None:
    """Answer every question with its own text, piece by piece; of seven, one fails and one is cut."""
    worker_id = await worker_leases.register_worker(engine, "fuzz", lease_seconds=24 * 3600)
    while True:
        claimed = await claims.claim(engine, worker_id, 100)
        for claim in claimed:
            await answer_stream.open_text(redis, claim.answer_id, claim.token, 0, create=True)
            text = asked(claim).encode()
            await answer_stream.append(redis, [TextAppend(claim.answer_id, claim.token, 0, text, RunningUsage())])
        # Long enough for some to be read, watched and cancelled meanwhile.
        await asyncio.sleep(0.05)
        for claim in claimed:
            if claim.answer_id % 7 == 0:
                await claims.fail(engine, claim, ErrorReason.CONTEXT_TOO_LONG)
            else:
                cut = claim.answer_id % 7 == 1
                result = claims.GenerationResult(
                    State.INCOMPLETE if cut else State.COMPLETED,
                    asked(claim),
                    FinishReason.OUTPUT_LIMIT if cut else FinishReason.STOP,
                    TokenCounts(prompt_tokens=38, completion_tokens=8, cached_prompt_tokens=24),
                )
                await claims.finish(engine, claim, result, reuse_seconds=60)
        await answer_stream.close_texts(redis, [claim.answer_id for claim in claimed])
