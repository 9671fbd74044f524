"""What a question's owner sees of it, and who is next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import fetch
from owners.token_counts import TokenCounts, each_count
from questions.sql import ITS_ANSWER
from questions.states import ErrorReason, FinishReason, State


@dataclass(frozen=True, slots=True)
class Question:
    """A question as its owner sees it now. Text and usage are there once ``state`` is completed or incomplete.

    ``written_by``: the identity of the model that wrote the text, where it is known.
    ``epoch``: how often text of the answer was taken back that readers may have seen.
    ``replayed_as``: the question by which an operator asked it again.
    """

    id: int
    answer_id: int
    owner: str
    language: str
    state: State
    epoch: int
    text: str | None
    written_by: str | None
    finish_reason: FinishReason | None
    error_reason: ErrorReason | None
    usage: TokenCounts
    created_at: datetime
    finished_at: datetime | None
    replayed_as: int | None


_COLUMNS = f"""
    q.id, q.answer_id, q.owner, q.language, coalesce(q.ended, a.state) AS state, a.epoch, q.created_at,
    coalesce(q.ended_at, a.finished_at) AS finished_at, q.replayed_as,
    CASE WHEN q.ended IS NULL THEN a.text END AS text,
    CASE WHEN q.ended IS NULL THEN a.written_by END AS written_by,
    CASE WHEN q.ended IS NULL THEN a.finish_reason END AS finish_reason,
    CASE WHEN q.ended IS NULL THEN a.error_reason END AS error_reason,
    {each_count("CASE WHEN q.ended IS NULL THEN a.{0} END AS {0}")}
"""
# Whose it is, is looked at afterwards: else the index of an owner's questions would do as well.
_READ = text(f"SELECT {_COLUMNS} FROM questions q JOIN {ITS_ANSWER} WHERE q.id = :question_id")
# Of arrays asyncpg knows text[] only: of others it asks PostgreSQL on each new connection, which takes 13 ms.
_READ_CHANGED = text(f"""
    SELECT known.id AS known_id, {_COLUMNS}
    FROM unnest(CAST(CAST(:ids AS text[]) AS bigint[]), CAST(:states AS text[])) AS known(id, state)
    LEFT JOIN LATERAL (SELECT * FROM questions WHERE id = known.id OFFSET 0) AS q ON true LEFT JOIN {ITS_ANSWER}
    WHERE coalesce(q.ended, a.state) IS DISTINCT FROM known.state
    LIMIT :limit
""")
_QUEUED = text("SELECT id FROM answers WHERE state = 'queued' AND due_at IS NULL ORDER BY turn, id LIMIT :limit")


async def read(engine: AsyncEngine, owner: str, question_id: int) -> Question | None:
    """The owner's question, or None: to anybody else it does not exist."""
    rows = await fetch(engine, _READ, {"question_id": question_id})
    return _question(dict(rows[0])) if rows and rows[0]["owner"] == owner else None


async def read_changed(engine: AsyncEngine, known: Mapping[int, State], limit: int) -> dict[int, Question | None]:
    """Those of the questions, by id, whose state is another than the known one; None for one that is no more.

    One statement, whoever owns them; at most ``limit`` of them, so that their texts take bounded memory.
    """
    parameters = {"ids": list(map(str, known)), "states": list(known.values()), "limit": limit}
    rows = [dict(row) for row in await fetch(engine, _READ_CHANGED, parameters)]
    return {row.pop("known_id"): None if row["id"] is None else _question(row) for row in rows}


async def read_queue(engine: AsyncEngine, limit: int) -> list[int]:
    """The ids of the answers that workers will claim next, in this order."""
    return [row["id"] for row in await fetch(engine, _QUEUED, {"limit": limit})]


def _question(fields: dict[str, Any]) -> Question:
    fields["state"] = State(fields["state"])
    fields["finish_reason"] = fields["finish_reason"] and FinishReason(fields["finish_reason"])
    fields["error_reason"] = fields["error_reason"] and ErrorReason(fields["error_reason"])
    return Question(usage=TokenCounts.pop_from(fields), **fields)
