"""Questions as api_service puts them into PostgreSQL, and what became of them."""

import uuid
from collections import Counter

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import GenerationSettings
from questions.asking import Ask, accept
from questions.requests import request_for


async def ask(
    engine: AsyncEngine,
    question: str,
    *,
    max_wait_seconds: float = 600,
    owner: str = "tests",
    settings: GenerationSettings | None = None,
    request_id: str | None = None,
) -> int:
    """Commit a question and return its id. Nobody is woken. ``settings``: those of the process that asks."""
    question_to_ask = Ask(
        owner=owner,
        text=question,
        language="en",
        answer_key=uuid.uuid4().bytes,
        model="",
        max_wait_seconds=max_wait_seconds,
        request=request_for(question, settings or GenerationSettings()).SerializeToString(),
        request_id=request_id,
    )
    return (await accept(engine, question_to_ask)).question_id


async def states(engine: AsyncEngine) -> Counter[str]:
    """How many answers are in each state."""
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT state, count(*) FROM answers GROUP BY state"))
        return Counter({row.state: row.count for row in rows})


async def answers(engine: AsyncEngine) -> dict[str, Row[tuple[object, ...]]]:
    """Each question's text with its answer's row."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT q.text AS question, a.* FROM questions q JOIN answers a ON a.id = q.answer_id")
        )
        return {row.question: row for row in rows}
