"""Cancelling a question, and its answer once nobody waits for it."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions.sql import ITS_OWN
from questions.states import State

_FIND_ANSWER = text(f"SELECT answer_id FROM questions WHERE {ITS_OWN}")
_LOCK_ANSWER = text("SELECT state FROM answers WHERE id = :answer_id FOR UPDATE")
_CANCEL_QUESTION = text("""
    UPDATE questions SET ended = 'cancelled', ended_at = clock_timestamp() WHERE id = :question_id AND ended IS NULL
""")
# A statement of its own, so that it sees questions that joined while the lock was awaited.
_CANCEL_ANSWER = text("""
    UPDATE answers
    SET state = 'cancelled', reusable = false, holder = NULL, finished_at = clock_timestamp()
    WHERE id = :answer_id AND NOT EXISTS (SELECT FROM questions WHERE answer_id = :answer_id AND ended IS NULL)
    RETURNING id
""")


async def cancel(engine: AsyncEngine, owner: str, question_id: int) -> int | None:
    """End the question as cancelled unless it is final, and its answer too if nobody else waits for it.

    Returns the id of the answer if this call ended it (whoever generates it should be told), else None.
    """
    async with engine.begin() as connection:
        question = {"question_id": question_id, "owner": owner}
        answer_id = (await connection.execute(_FIND_ANSWER, question)).scalar_one_or_none()
        if answer_id is None:
            return None
        state = (await connection.execute(_LOCK_ANSWER, {"answer_id": answer_id})).scalar_one_or_none()
        if state is None or State(state).is_final:  # None: it was erased meanwhile, and the question with it
            return None
        await connection.execute(_CANCEL_QUESTION, question)
        ended: int | None = (await connection.execute(_CANCEL_ANSWER, {"answer_id": answer_id})).scalar_one_or_none()
        return ended
