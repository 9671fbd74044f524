"""Removing a question for good, and its answer with all traces once nobody else has asked for it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions.sql import ITS_OWN

Forget = Callable[[int, int | None], Awaitable[None]]
"""Has all copies of a question forgotten, and with an answer's id those of its text. Raises where it cannot."""

_FIND_ANSWER = text(f"SELECT answer_id FROM questions WHERE {ITS_OWN}")
_LOCK_ANSWER = text("SELECT id FROM answers WHERE id = :answer_id FOR UPDATE")
_DELETE_QUESTION = text(f"DELETE FROM questions WHERE {ITS_OWN} RETURNING id")
# Statements of their own, so that they see questions that joined while the lock was awaited.
_DELETE_ANSWER = text("""
    DELETE FROM answers WHERE id = :answer_id AND NOT EXISTS (SELECT FROM questions WHERE answer_id = :answer_id)
    RETURNING id
""")
_KEEP_ANSWER = text("""
    UPDATE answers SET reusable = false,
        state = CASE WHEN wanted.by_somebody THEN state ELSE 'cancelled' END,
        holder = CASE WHEN wanted.by_somebody THEN holder END,
        finished_at = CASE WHEN wanted.by_somebody THEN finished_at ELSE clock_timestamp() END
    FROM (
        SELECT finished_at IS NOT NULL
            OR EXISTS (SELECT FROM questions WHERE answer_id = :answer_id AND ended IS NULL) AS by_somebody
        FROM answers WHERE id = :answer_id
    ) AS wanted
    WHERE id = :answer_id
    RETURNING NOT wanted.by_somebody AS ended
""")


class Erased(StrEnum):
    """What became of the answer."""

    ERASED = "erased"
    KEPT = "kept"


async def erase(engine: AsyncEngine, owner: str, question_id: int, forget: Forget) -> tuple[Erased, int | None] | None:
    """Remove the question; its answer too if no other question refers to it, else let nobody else join it.

    Returns what became of the answer, and its id if a worker may still be writing it and should be told. None: the
    owner has no such question. Raises what ``forget`` raises, having changed nothing: what was erased must not be read
    again from a copy.
    """
    question = {"question_id": question_id, "owner": owner}
    async with engine.begin() as connection:
        answer_id = (await connection.execute(_FIND_ANSWER, question)).scalar_one_or_none()
        if answer_id is None:
            return None
        answer = {"answer_id": answer_id}
        await connection.execute(_LOCK_ANSWER, answer)
        if (await connection.execute(_DELETE_QUESTION, question)).one_or_none() is None:
            return None
        gone = (await connection.execute(_DELETE_ANSWER, answer)).one_or_none() is not None
        ended = gone or (await connection.execute(_KEEP_ANSWER, answer)).scalar_one()
        # Before the commit: killed in between, this process leaves a question that can be erased again, and no copy of
        # one that cannot.
        await forget(question_id, answer_id if gone else None)
    return (Erased.ERASED if gone else Erased.KEPT), (answer_id if ended else None)
