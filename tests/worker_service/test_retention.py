"""Removing what is older than the operators want to keep."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import Database
from foundation.reachability import Reachability
from worker_service.sweeping import retention
from worker_service.sweeping.retention import keep_retention


async def test_old_final_questions_go_and_the_others_stay(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_ROUND_SECONDS", 0.01)
    async with engine.begin() as connection:
        await connection.execute(
            text("""
            WITH a AS (
                INSERT INTO answers (answer_key, reusable, model, state, text, next_deadline, finished_at)
                VALUES ('key', false, '', 'completed', 'because', now(), now() - interval '3 days') RETURNING id
            )
            INSERT INTO questions (owner, text, language, answer_id, deadline, created_at)
            SELECT 'local', 'why?', 'en', a.id, now(), now() - days * interval '1 day' FROM a, unnest(ARRAY[1, 3]) days
        """)
        )

    async def ages() -> list[int]:
        async with engine.connect() as connection:
            days = await connection.execute(text("SELECT extract(day FROM now() - created_at)::int FROM questions"))
            return list(days.scalars())

    database = Database(engine, Reachability.of("PostgreSQL", "nothing is removed"))
    keeping = asyncio.create_task(keep_retention(database, 2))
    async with asyncio.timeout(30):
        while await ages() != [1]:
            await asyncio.sleep(0.01)
    keeping.cancel()
