"""What keeps questions moving when somebody has died: run every few seconds by every worker, harmless when doubled.

Each step is one conditional statement over a partial index, skips rows that another sweeper holds, and takes at
most ``BATCH`` rows, so that no step is long and no process is special. One that fails does not stop the others.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from owners.ledger import fold
from questions.suspects import POISON_FROM, SUSPECT, SUSPECT_FROM

T = TypeVar("T")

BATCH = 1_000
_QUESTIONS_A_ROUND: Final = 10_000
"""An answer can be shared by millions of questions."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one round found: counts, and the ids of answers that ended while somebody may still generate them.

    ``suspects``: whether any waits to be tried. ``failures``: why steps failed, by their names.
    """

    lost: int
    ended_answers: list[int]
    due: int
    suspects: bool = False
    failures: Mapping[str, BaseException] = field(default_factory=dict)


class Availability:
    """Since when PostgreSQL has been there for this process: whoever has lost its lease since is dead.

    An outage that is longer than a lease ends the leases of living workers, too. Those who look first when it is over
    must not take them for dead. Times are PostgreSQL's.
    """

    def __init__(self, lease_seconds: float, heartbeat_seconds: float) -> None:
        # A pause that is shorter ends no lease: each worker has time for a heartbeat before it or after it.
        self.gap = timedelta(seconds=lease_seconds - 2 * heartbeat_seconds)
        self.chance = timedelta(seconds=heartbeat_seconds + 2)
        """What a living worker needs to renew its lease."""
        self.since: datetime | None = None
        self._looked_at: datetime | None = None
        self._failed = False

    def looks(self, now: datetime) -> None:
        """PostgreSQL answers, by its own clock now."""
        if self._failed or (self._looked_at is not None and now - self._looked_at > self.gap):
            self.since = now
        self._failed = False
        self._looked_at = now

    def fails(self) -> None:
        """PostgreSQL does not answer."""
        self._failed = True


_LOOK = text("SELECT clock_timestamp()")
# A loss counts where the worker could have renewed its lease and did not. Where the worker was trying a suspect, it is
# to blame and the others are not; of several suspects none is, and each will be tried by itself.
_REQUEUE_LOST = text(f"""
    WITH lost AS (
        SELECT id FROM answers a
        WHERE holder IS NOT NULL
          AND NOT EXISTS (SELECT FROM workers w WHERE w.id = a.holder AND w.lease_until > clock_timestamp())
        LIMIT {BATCH} FOR UPDATE OF a SKIP LOCKED
    ), taken AS (
        UPDATE answers SET (holder, losses, state, due_at, error_reason, finished_at, reusable) = (
            SELECT NULL::bigint, times, CASE WHEN times < {POISON_FROM} THEN 'queued' ELSE 'failed' END,
                CASE WHEN times < {POISON_FROM} AND (times >= {SUSPECT_FROM} OR interruptions >= {SUSPECT_FROM})
                    THEN 'infinity'::timestamptz END,
                CASE WHEN times >= {POISON_FROM} THEN 'poison' END,
                CASE WHEN times >= {POISON_FROM} THEN clock_timestamp() END,
                reusable AND times < {POISON_FROM}
            FROM (
                SELECT losses + CASE WHEN clock_timestamp() < CAST(:counts_until AS timestamptz) AND EXISTS (
                    SELECT FROM workers w WHERE w.id = answers.holder AND w.lease_until
                        > greatest(CAST(:since AS timestamptz), pg_postmaster_start_time()) + CAST(:chance AS interval)
                ) AND (SELECT CASE WHEN answers.trial_until IS NULL THEN tried = 0 ELSE tried = 1 END FROM (
                    SELECT cardinality(array_positions(ARRAY(
                        SELECT holder FROM answers WHERE holder IS NOT NULL AND trial_until IS NOT NULL
                    ), answers.holder)) AS tried
                ) AS trials) THEN 1 ELSE 0 END AS times
            ) AS counted
        )
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
# What is left of the questions keeps the answer's next deadline in the past, so that the next round goes on.
_EXPIRE_QUESTIONS = text(f"""
    UPDATE questions SET ended = 'expired', ended_at = clock_timestamp()
    WHERE id = ANY(ARRAY(
        SELECT id FROM questions
        WHERE answer_id = ANY(:answer_ids) AND ended IS NULL AND deadline <= clock_timestamp()
        LIMIT {_QUESTIONS_A_ROUND}
    )) AND ended IS NULL
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


_ANY_SUSPECTS = text(f"SELECT turn FROM answers WHERE state = 'queued' AND {SUSPECT} ORDER BY id LIMIT 1")


async def sweep(engine: AsyncEngine, count_due_up_to: int, availability: Availability | None = None) -> SweepResult:
    """One round: take lost answers back, wake those whose wait is over, expire, stop reuse, fold the ledger.

    Also counts what is due then. Without ``availability`` each loss counts. A step that PostgreSQL refuses, or which
    takes too long, is among the failures; it raises if PostgreSQL does not answer any more.
    """
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(_LOOK)).scalar_one()
    counting = {"counts_until": now + timedelta(days=1), "since": None, "chance": timedelta(0)}
    if availability is not None:
        availability.looks(now)
        counting = {
            "counts_until": now + availability.gap,
            "since": availability.since,
            "chance": availability.chance,
        }
    failures: dict[str, BaseException] = {}

    async def step(name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T | None:
        try:
            async with engine.begin() as connection:
                return await work(connection)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            failures[name] = error
        except TimeoutError as error:
            failures[name] = error
        return None

    taken = await step("taking lost answers back", lambda c: _take_back(c, counting))
    await step("waking what waits", lambda c: c.execute(_MAKE_DUE))
    ended = await step("expiring", _expire)
    await step("ending reuse", lambda c: c.execute(_STOP_REUSE))
    await step("forgetting workers", lambda c: c.execute(_FORGET_WORKERS))
    await step("folding the ledger", fold)
    due = await step("counting what is due", lambda c: _count_due(c, count_due_up_to))
    suspects = await step("looking for suspects", _any_suspects)
    lost, poisoned = taken or (0, [])
    return SweepResult(lost, [*poisoned, *(ended or [])], due or 0, bool(suspects), failures)


async def count_due(engine: AsyncEngine, up_to: int) -> int:
    """How many answers could be claimed now, counted no further than ``up_to``."""
    async with engine.connect() as connection:
        return await _count_due(connection, up_to)


async def _count_due(connection: AsyncConnection, up_to: int) -> int:
    due: int = (await connection.execute(_COUNT_DUE, {"limit": up_to})).scalar_one()
    return due


async def _any_suspects(connection: AsyncConnection) -> bool:
    return (await connection.execute(_ANY_SUSPECTS)).first() is not None


async def _take_back(connection: AsyncConnection, counting: Mapping[str, object]) -> tuple[int, list[int]]:
    taken = (await connection.execute(_REQUEUE_LOST, counting)).one()
    return taken.lost, taken.poisoned


async def _expire(connection: AsyncConnection) -> list[int]:
    overdue = {"answer_ids": list((await connection.execute(_LOCK_OVERDUE)).scalars())}
    if not overdue["answer_ids"]:
        return []
    await connection.execute(_EXPIRE_QUESTIONS, overdue)
    # A statement of its own sees what the one before changed.
    rows = (await connection.execute(_EXPIRE_ANSWERS, overdue)).all()
    return [row.id for row in rows if row.ended]
