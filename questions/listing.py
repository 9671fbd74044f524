"""What an owner has asked, newest first, a page at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from questions.sql import ITS_ANSWER
from questions.states import State

MOST_SCANNED = 1_000
"""So many questions one page looks at for those of wanted states, which no index finds."""


@dataclass(frozen=True, slots=True, order=True)
class ListCursor:
    """Where in the list a question stands. Questions of one moment are in the order of their ids."""

    created_at: datetime
    question_id: int


@dataclass(frozen=True, slots=True)
class QuestionFilter:
    """Which questions: in one of the states, if any is named, and asked from ``since`` on and before ``before``."""

    states: Collection[State] = ()
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class QuestionListItem:
    """A question in the list."""

    id: int
    state: State
    text: str
    created_at: datetime
    finished_at: datetime | None

    @property
    def cursor(self) -> ListCursor:
        """Its place in the list."""
        return ListCursor(self.created_at, self.id)


@dataclass(frozen=True, slots=True)
class Page:
    """``next_after``: where the next page begins; None: this is the last. A page with states can be short, or empty."""

    questions: list[QuestionListItem]
    next_after: ListCursor | None


# Whatever is not asked for has a bound that bounds nothing: so one statement, and one use of the index, serves all.
_SCAN = f"""
    SELECT id, answer_id, text, ended, ended_at, created_at FROM questions
    WHERE owner = :owner AND (created_at, id) < (:after_at, :after_id) AND created_at >= :since
    ORDER BY created_at DESC, id DESC LIMIT {MOST_SCANNED}
"""
_LIST = text(f"""
    SELECT q.id, coalesce(q.ended, a.state) AS state, q.text, q.created_at,
           coalesce(q.ended_at, a.finished_at) AS finished_at
    FROM ({_SCAN}) AS q JOIN {ITS_ANSWER}
    WHERE :any_state OR coalesce(q.ended, a.state) = ANY(CAST(:states AS text[]))
    ORDER BY q.created_at DESC, q.id DESC LIMIT :limit
""")
_LAST_SCANNED = text(f"""
    SELECT id, created_at FROM ({_SCAN}) AS q ORDER BY created_at DESC, id DESC OFFSET {MOST_SCANNED - 1}
""")
_LONG_AGO = datetime.fromisoformat("0001-01-02T00:00:00Z")
_FAR_AHEAD = datetime.fromisoformat("9999-12-30T00:00:00Z")


async def list_questions(
    engine: AsyncEngine, owner: str, filters: QuestionFilter, after: ListCursor | None, limit: int
) -> Page:
    """At most ``limit`` of the owner's questions behind the cursor ``after``; None: from the newest on."""
    start = ListCursor(filters.before or _FAR_AHEAD, 0)
    if after is not None and after < start:
        start = after
    parameters = {
        "owner": owner,
        "after_at": start.created_at,
        "after_id": start.question_id,
        "since": filters.since or _LONG_AGO,
        "any_state": not filters.states,
        "states": list(filters.states),
        "limit": limit + 1,
    }
    async with engine.connect() as connection:
        rows = (await connection.execute(_LIST, parameters)).all()
        found = [
            QuestionListItem(row.id, State(row.state), row.text, row.created_at, row.finished_at)
            for row in rows[:limit]
        ]
        if len(rows) > limit:
            return Page(found, found[-1].cursor)
        return Page(found, await _last_scanned(connection, parameters) if filters.states else None)


async def _last_scanned(connection: AsyncConnection, parameters: dict[str, object]) -> ListCursor | None:
    row = (await connection.execute(_LAST_SCANNED, parameters)).one_or_none()
    return None if row is None else ListCursor(row.created_at, row.id)
