"""What the tests of this folder do to the database again and again, in short."""

import hashlib
from typing import Any

from askmesh.llm.v1.generation_pb2 import GenerationSpec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import GenerationSettings
from models.identity import identity
from owners.token_counts import TokenCounts
from questions.asking import Accepted, Ask, accept
from questions.claims import Claim, GenerationResult, claim
from questions.reading import Question, read
from questions.requests import request_for
from questions.states import FinishReason, State
from questions.worker_leases import register_worker

OWNER = "local"
MODEL = identity("test-model", "")


def question(words: str, *, wait: float = 600, fresh: bool = False, key: bytes | None = None, body: bytes = b"") -> Ask:
    return Ask(
        owner=OWNER,
        text=words,
        language="en",
        answer_key=hashlib.sha256(words.encode()).digest(),
        model="",
        max_wait_seconds=wait,
        request=request_for(words, GenerationSettings()).SerializeToString(),
        identity=MODEL,
        reuse_seconds=31_536_000,
        fresh=fresh,
        idempotency_key_hash=key,
        request_hash=None if key is None else body,
    )


async def ask(engine: AsyncEngine, words: str, **options: Any) -> Accepted:
    return await accept(engine, question(words, **options))


async def worker(engine: AsyncEngine) -> int:
    return await register_worker(engine, "test", lease_seconds=60)


async def claim_one(engine: AsyncEngine, worker_id: int, *, suspects: bool = False) -> Claim:
    (claimed,) = await claim(engine, worker_id, 1, suspects=suspects)
    return claimed


def asked(claim: Claim) -> str:
    """The text of the question, as the model is sent it."""
    assert claim.request is not None
    return GenerationSpec.FromString(claim.request).messages[-1].content


def completed(words: str = "an answer", by: str | None = MODEL) -> GenerationResult:
    return GenerationResult(
        State.COMPLETED, words, FinishReason.STOP, TokenCounts(prompt_tokens=3, completion_tokens=2), by
    )


async def seen(engine: AsyncEngine, question_id: int) -> Question:
    found = await read(engine, OWNER, question_id)
    assert found is not None
    return found


async def rows(engine: AsyncEngine, statement: str, **parameters: object) -> list[Any]:
    async with engine.begin() as connection:
        return list((await connection.execute(text(statement), parameters)).all())
