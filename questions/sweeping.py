"""What keeps questions moving when somebody has died: run every few seconds by every worker, harmless when doubled.

Each step is one conditional statement over a partial index, skips rows that another sweeper holds, and takes at
most ``BATCH`` rows, so that no step is long and no process is special.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from questions.claims import POISON_FROM
from questions.ledger import fold

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Swept:
    """What one round found: counts, and the ids of answers that ended while somebody may still generate them."""

    lost: int
    ended_answers: list[int]
    due: int


_REQUEUE_LOST = text(f"""
    WITH lost AS (
        SELECT id FROM answers a
        WHERE holder IS NOT NULL
          AND NOT EXISTS (SELECT FROM workers w WHERE w.id = a.holder AND w.lease_until > clock_timestamp())
        LIMIT {BATCH} FOR UPDATE OF a SKIP LOCKED
    ), taken AS (
        UPDATE answers SET holder = NULL, losses = losses + 1,
            state = CASE WHEN losses + 1 < {POISON_FROM} THEN 'queued' ELSE 'failed' END,
            error_reason = CASE WHEN losses + 1 >= {POISON_FROM} THEN 'poison' END,
            finished_at = CASE WHEN losses + 1 >= {POISON_FROM} THEN clock_timestamp() END,
            reusable = reusable AND losses + 1 < {POISON_FROM}
        WHERE id = ANY(ARRAY(SELECT id FROM lost))
        RETURNING id, state
    )
    SELECT count(*) AS lost, coalesce(array_agg(id) FILTER (WHERE state = 'failed'), '{{}}') AS poisoned FROM taken
""")
# In a subquery the volatile clock is read once and can bound an index scan. Compared directly it is a filter: with 10
# million reusable answers each round read all of them, and was ended by statement_timeout before it was through.
_MAKE_DUE = text(f"""
    WITH due AS (
        SELECT id FROM answers WHERE state = 'queued' AND due_at <= (SELECT clock_timestamp())
        ORDER BY due_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED
    )
    UPDATE answers SET due_at = NULL WHERE id = ANY(ARRAY(SELECT id FROM due))
""")
_LOCK_OVERDUE = text(f"""
    SELECT id FROM answers
    WHERE state IN ('queued', 'in_progress') AND next_deadline <= (SELECT clock_timestamp())
    ORDER BY next_deadline LIMIT {BATCH} FOR UPDATE SKIP LOCKED
""")
_EXPIRE_QUESTIONS = text("""
    UPDATE questions SET ended = 'expired', ended_at = clock_timestamp()
    WHERE answer_id = ANY(:answer_ids) AND ended IS NULL AND deadline <= clock_timestamp()
""")
_EXPIRE_ANSWERS = text("""
    UPDATE answers SET (next_deadline, state, holder, finished_at, reusable) = (
        SELECT coalesce(waiting.deadline, next_deadline),
            CASE WHEN waiting.deadline IS NULL THEN 'expired' ELSE state END,
            CASE WHEN waiting.deadline IS NOT NULL THEN holder END,
            CASE WHEN waiting.deadline IS NULL THEN clock_timestamp() END,
            reusable AND waiting.deadline IS NOT NULL
        FROM (SELECT min(deadline) AS deadline FROM questions WHERE answer_id = answers.id AND ended IS NULL) AS waiting
    )
    WHERE id = ANY(:answer_ids)
    RETURNING id, state = 'expired' AS ended
""")
_STOP_REUSE = text(f"""
    WITH stale AS (
        SELECT id FROM answers WHERE reusable AND reuse_until <= (SELECT clock_timestamp())
        ORDER BY reuse_until LIMIT {BATCH} FOR UPDATE SKIP LOCKED
    )
    UPDATE answers SET reusable = false WHERE id = ANY(ARRAY(SELECT id FROM stale))
""")
# An hour is far beyond any lease: such a row serves nobody, and operators have seen it.
_FORGET_WORKERS = text("""
    DELETE FROM workers w WHERE lease_until < clock_timestamp() - interval '1 hour'
      AND NOT EXISTS (SELECT FROM answers WHERE holder = w.id OFFSET 0)
""")
_COUNT_DUE = text("""
    SELECT count(*) FROM (
        SELECT FROM answers WHERE state = 'queued' AND due_at IS NULL ORDER BY turn, id LIMIT :limit
    ) AS due
""")


async def sweep(engine: AsyncEngine, count_due_up_to: int) -> Swept:
    """One round: take lost answers back, wake those whose wait is over, expire, stop reuse, fold the ledger.

    Also counts what is due then.
    """
    async with engine.begin() as connection:
        taken = (await connection.execute(_REQUEUE_LOST)).one()
    async with engine.begin() as connection:
        await connection.execute(_MAKE_DUE)
    async with engine.begin() as connection:
        ended = await _expire(connection)
    async with engine.begin() as connection:
        await connection.execute(_STOP_REUSE)
    async with engine.begin() as connection:
        await connection.execute(_FORGET_WORKERS)
    async with engine.begin() as connection:
        await fold(connection)
    return Swept(taken.lost, [*taken.poisoned, *ended], await count_due(engine, count_due_up_to))


async def count_due(engine: AsyncEngine, up_to: int) -> int:
    """How many answers could be claimed now, counted no further than ``up_to``."""
    async with engine.connect() as connection:
        due: int = (await connection.execute(_COUNT_DUE, {"limit": up_to})).scalar_one()
        return due


async def _expire(connection: AsyncConnection) -> list[int]:
    overdue = {"answer_ids": list((await connection.execute(_LOCK_OVERDUE)).scalars())}
    if not overdue["answer_ids"]:
        return []
    await connection.execute(_EXPIRE_QUESTIONS, overdue)
    # A statement of its own sees what the one before changed.
    rows = (await connection.execute(_EXPIRE_ANSWERS, overdue)).all()
    return [row.id for row in rows if row.ended]
