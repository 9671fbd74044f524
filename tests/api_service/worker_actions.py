"""What workers do, in short: ending the questions of a test as they would."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.token_counts import TokenCounts
from questions import claims, worker_leases
from questions.answer_key import normalise
from questions.states import ErrorReason, FinishReason, State
from tests.questions.actors import MODEL, asked

REMEMBER_MODEL = f"INSERT INTO models (name, identity) VALUES ('', '{MODEL}')"
"""What an api_service finds in PostgreSQL that starts while llm_service is away."""


async def claim(engine: AsyncEngine, words: str) -> claims.Claim:
    worker_id = await worker_leases.register_worker(engine, "test", lease_seconds=60)
    claimed = await claims.claim(engine, worker_id, 1_000)
    (claim,) = (claim for claim in claimed if asked(claim) == normalise(words))
    await worker_leases.hand_back_all_but(engine, worker_id, [claim.token])
    return claim


async def start(engine: AsyncEngine, words: str) -> None:
    """A worker takes the question and is not heard of again."""
    await claim(engine, words)


async def complete(engine: AsyncEngine, words: str, answer: str, *, reuse_seconds: float = 60) -> None:
    result = claims.GenerationResult(
        State.COMPLETED,
        answer,
        FinishReason.STOP,
        TokenCounts(prompt_tokens=38, completion_tokens=8, cached_prompt_tokens=24),
        written_by=MODEL,
    )
    assert await claims.finish(engine, await claim(engine, words), result, reuse_seconds)


async def cut_short(engine: AsyncEngine, words: str, answer: str) -> None:
    result = claims.GenerationResult(State.INCOMPLETE, answer, FinishReason.OUTPUT_LIMIT, written_by=MODEL)
    assert await claims.finish(engine, await claim(engine, words), result, 60)


async def fail(engine: AsyncEngine, words: str, reason: ErrorReason) -> None:
    assert await claims.fail(engine, await claim(engine, words), reason)


async def rows(engine: AsyncEngine) -> tuple[int, int]:
    """How many questions and answers are stored."""
    counts = "SELECT (SELECT count(*) FROM questions), (SELECT count(*) FROM answers)"
    async with engine.connect() as connection:
        questions, answers = (await connection.execute(text(counts))).one()
        return questions, answers


async def stored(engine: AsyncEngine, words: str) -> list[int]:
    """The ids of the questions with these words."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT id FROM questions WHERE text = :words"), {"words": words})
        return list(found.scalars())
