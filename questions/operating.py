"""What operators do: see what is stuck or set aside, ask it again, and remove what is old."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from owners.priority import Priority
from owners.turns import OwnerQueue, next_turn
from questions.asking import Ask, accept
from questions.states import State
from questions.suspects import SUSPECT_FROM


class QuestionSelection(StrEnum):
    """Which questions to list."""

    ALL = "all"
    STUCK = "stuck"
    FAILED = "failed"
    POISON = "poison"


@dataclass(frozen=True, slots=True)
class QuestionSummary:
    """A question as operators see it, without what was asked or answered."""

    id: int
    answer_id: int
    owner: str
    request_id: str | None
    state: State
    error_reason: str | None
    attempt: int
    waits: int
    losses: int
    interruptions: int
    holder: str | None
    due_at: datetime | None
    created_at: datetime
    replayed_as: int | None


_CONDITIONS = {
    QuestionSelection.ALL: "true",
    # A minute is longer than any healthy step between two states takes, except generating itself.
    QuestionSelection.STUCK: f"""
        q.ended IS NULL AND a.state IN ('queued', 'in_progress') AND (
            a.waits > 0 OR a.losses >= {SUSPECT_FROM} OR a.interruptions >= {SUSPECT_FROM}
            OR (a.state = 'queued' AND q.created_at < clock_timestamp() - interval '1 minute')
            OR (a.state = 'in_progress' AND (w.lease_until IS NULL OR w.lease_until < clock_timestamp()))
        )""",
    QuestionSelection.FAILED: "q.ended IS NULL AND a.state = 'failed'",
    QuestionSelection.POISON: "q.ended IS NULL AND a.state = 'failed' AND a.error_reason = 'poison'",
}
_LIST = """
    SELECT q.id, q.answer_id, q.owner, q.request_id, coalesce(q.ended, a.state) AS state,
           CASE WHEN q.ended IS NULL THEN a.error_reason END,
           a.attempt, a.waits, a.losses, a.interruptions, w.name, a.due_at, q.created_at, q.replayed_as
    FROM questions q JOIN answers a ON a.id = q.answer_id LEFT JOIN workers w ON w.id = a.holder
"""
_FIND_REPLAYABLE = text("""
    SELECT q.owner, q.text, q.language, q.answer_id, a.model
    FROM questions q JOIN answers a ON a.id = q.answer_id
    WHERE q.id = :id AND q.replayed_as IS NULL
      AND coalesce(q.ended, a.state) IN ('failed', 'cancelled', 'expired', 'incomplete')
    FOR UPDATE OF q
""")
_NOTE_REPLAY = text("UPDATE questions SET replayed_as = :new_id WHERE id = :id AND replayed_as IS NULL RETURNING id")
_OLDEST = text("""
    SELECT id, answer_id, created_at < clock_timestamp() - CAST(:age AS interval) AS asked_long_ago,
           coalesce(ended_at, finished_at) IS NOT NULL AND greatest(created_at, ended_at, finished_at)
               < clock_timestamp() - CAST(:age AS interval) AS ended_long_ago
    FROM (
        SELECT *, (SELECT finished_at FROM answers WHERE id = questions.answer_id) AS finished_at
        FROM questions WHERE id > :after ORDER BY id LIMIT :batch
    ) AS oldest
""")
_DELETE_QUESTIONS = text("DELETE FROM questions WHERE id = ANY(:ids)")
# Locked first and looked at in a further statement: a question that joins meanwhile is seen.
_LOCK_ANSWERS = text("SELECT id FROM answers WHERE id = ANY(:ids) ORDER BY id FOR UPDATE")
_DELETE_ANSWERS = text("""
    DELETE FROM answers a
    WHERE id = ANY(:ids) AND finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM questions WHERE answer_id = a.id)
""")


@dataclass(frozen=True, slots=True)
class OperatorFilter:
    """Which questions are looked at; None: whichever. ``request_id``: of the newest million questions."""

    ids: Sequence[int] | None = None
    owner: str | None = None
    answer_id: int | None = None
    request_id: str | None = None


_FILTERS = {
    "ids": "q.id = ANY(:ids)",
    "owner": "q.owner = :owner",
    "answer_id": "q.answer_id = :answer_id",
    "request_id": "q.request_id = :request_id AND q.id > (SELECT max(id) FROM questions) - 1000000",
}


async def list_questions(
    engine: AsyncEngine, selection: QuestionSelection, limit: int, filters: OperatorFilter | None = None
) -> list[QuestionSummary]:
    """The newest ``limit`` questions of the selection."""
    given = {name: value for name, value in asdict(filters or OperatorFilter()).items() if value is not None}
    condition = " AND ".join([_CONDITIONS[selection], *(_FILTERS[name] for name in given)])
    statement = text(f"{_LIST} WHERE {condition} ORDER BY q.id DESC LIMIT :limit")
    parameters = given | {"limit": limit}
    async with engine.connect() as connection:
        rows = (await connection.execute(statement, parameters)).all()
    return [QuestionSummary(row[0], row[1], row[2], row[3], State(row[4]), *row[5:]) for row in rows]


async def replay(engine: AsyncEngine, question_id: int, max_wait_seconds: float) -> int | None:
    """Ask the question again under a new id, which is returned and which readers of the old one are told.

    A final state never changes, so the old question stays as it ended. None: there is no such question, it has not
    ended without a whole answer, or it was replayed before.

    It is generated anew, by the settings that workers have by then: what cut an answer short, or made it impossible,
    stands in the request that was stored as often as not. Whoever asked together shares one answer again.
    """
    async with engine.connect() as connection:
        found = (await connection.execute(_FIND_REPLAYABLE, {"id": question_id})).one_or_none()
        if found is None:
            return None
        ask = Ask(
            owner=found.owner,
            text=found.text,
            language=found.language,
            # Nobody else asks under this key. Without a request, workers make one, and the answer is not reused.
            answer_key=hashlib.sha256(b"\0replay of answer %d" % found.answer_id).digest(),
            model=found.model,
            max_wait_seconds=max_wait_seconds,
            # A replay that was cut short finds the question that it made. No client can send a key with a NUL.
            idempotency_key_hash=hashlib.sha256(b"\0replay:%d" % question_id).digest(),
            request_hash=b"",
            turn=await next_turn(engine, OwnerQueue(found.owner, Priority.NORMAL)),
        )
        accepted = await accept(engine, ask)
        await connection.execute(_NOTE_REPLAY, {"id": question_id, "new_id": accepted.question_id})
        await connection.commit()
        return accepted.question_id


async def purge(engine: AsyncEngine, age: timedelta, *, batch: int = 1_000) -> int:
    """Remove final questions that ended longer ago than ``age``, and answers that no question refers to.

    Returns how many questions were removed. Works in short transactions, oldest first, by primary key.
    """
    removed, after = 0, 0
    while True:
        async with engine.begin() as connection:
            rows = (await connection.execute(_OLDEST, {"age": age, "after": after, "batch": batch})).all()
            removable = [row for row in rows if row.ended_long_ago]
            if removable:
                await _remove(connection, [row.id for row in removable], {row.answer_id for row in removable})
        removed += len(removable)
        if not rows or not rows[-1].asked_long_ago:
            return removed
        after = rows[-1].id


async def _remove(connection: AsyncConnection, ids: list[int], answer_ids: set[int]) -> None:
    await connection.execute(_LOCK_ANSWERS, {"ids": sorted(answer_ids)})
    await connection.execute(_DELETE_QUESTIONS, {"ids": ids})
    await connection.execute(_DELETE_ANSWERS, {"ids": sorted(answer_ids)})
