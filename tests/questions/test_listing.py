import random
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions import listing
from questions.cancelling import cancel
from questions.listing import ListCursor, QuestionFilter, QuestionListItem, list_questions
from questions.states import State
from tests.questions.actors import OWNER, ask, rows


async def change(engine: AsyncEngine, what: str, *ids: int) -> None:
    await rows(engine, f"UPDATE questions SET {what} WHERE id = ANY(:ids) RETURNING id", ids=list(ids))


async def everything(engine: AsyncEngine, wanted: QuestionFilter, limit: int) -> list[QuestionListItem]:
    """All pages, one after the other."""
    found: list[QuestionListItem] = []
    after: ListCursor | None = None
    while True:
        page = await list_questions(engine, OWNER, wanted, after, limit)
        assert len(page.questions) <= limit
        found += page.questions
        if page.next_after is None:
            return found
        assert after is None or page.next_after < after
        after = page.next_after


async def test_pages_show_each_question_of_the_owner_once_newest_first(engine: AsyncEngine) -> None:
    ids = [(await ask(engine, f"why {number}?")).question_id for number in range(11)]
    # Several of one moment, and one that was asked before those with lower ids.
    await change(engine, "created_at = '2026-01-01Z'", *ids[3:6])
    await change(engine, "created_at = '2025-01-01Z'", ids[8])
    await change(engine, "owner = 'somebody else'", ids[10])
    expected = [ids[9], *reversed(ids[6:8]), *reversed(ids[:3]), *reversed(ids[3:6]), ids[8]]
    for limit in (1, 2, 3, 10, 11):
        assert [listed.id for listed in await everything(engine, QuestionFilter(), limit)] == expected
    assert (await list_questions(engine, "nobody", QuestionFilter(), None, 5)).questions == []


async def test_states_and_times_choose(engine: AsyncEngine) -> None:
    ids = [(await ask(engine, f"why {number}?")).question_id for number in range(8)]
    cancelled = [ids[1], ids[6]]
    for question_id in cancelled:
        await cancel(engine, OWNER, question_id)
    start = datetime.fromisoformat("2026-01-01T00:00:00Z")
    for number, question_id in enumerate(ids):
        moment = start + timedelta(hours=number)
        await change(engine, f"created_at = '{moment.isoformat()}'", question_id)

    async def chosen(*states: State, since: int | None = None, before: int | None = None) -> list[int]:
        times = [None if hours is None else start + timedelta(hours=hours) for hours in (since, before)]
        found = await everything(engine, QuestionFilter(states, *times), 3)
        return sorted(ids.index(listed.id) for listed in found)

    assert await chosen(State.CANCELLED) == [1, 6]
    assert await chosen(State.QUEUED, State.CANCELLED) == [*range(8)]
    assert await chosen(State.COMPLETED) == []
    assert await chosen(since=2, before=5) == [2, 3, 4]
    assert await chosen(State.CANCELLED, before=6) == [1]
    assert await chosen(State.CANCELLED, since=6) == [6]
    (first, *_) = await everything(engine, QuestionFilter([State.CANCELLED]), 5)
    assert (first.text, first.state) == ("why 6?", State.CANCELLED)
    assert first.finished_at is not None


async def many(engine: AsyncEngine, count: int) -> None:
    """So many questions of the owner, of which the oldest is cancelled, among as many of others."""
    async with engine.begin() as connection:
        await connection.execute(
            text("""
            WITH answer AS (
                INSERT INTO answers (answer_key, reusable, model, state, next_deadline, finished_at, text)
                VALUES ('x', false, '', 'completed', now(), now(), 'because') RETURNING id
            )
            INSERT INTO questions (owner, text, language, answer_id, deadline, created_at, ended, ended_at)
            SELECT CASE n % 2 WHEN 0 THEN :owner ELSE 'other ' || n % 100 END, 'why?', 'en', answer.id, now(),
                   now() - make_interval(secs => :count - n),
                   CASE n WHEN 2 THEN 'cancelled' END, CASE n WHEN 2 THEN now() END
            FROM answer, generate_series(1, 2 * :count) AS n
            """),
            {"owner": OWNER, "count": count},
        )
        await connection.execute(text("ANALYZE questions, answers"))


async def plan(engine: AsyncEngine, statement: Any, **parameters: object) -> str:
    async with engine.connect() as connection:
        explained = await connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS) {statement.text}"), parameters)
        return "\n".join(explained.scalars())


async def test_a_page_costs_what_it_shows_and_a_rare_state_a_bounded_part(engine: AsyncEngine) -> None:
    await many(engine, 30_000)
    parameters = {
        "owner": OWNER,
        "after_at": datetime.fromisoformat("9999-12-30T00:00:00Z"),
        "after_id": 0,
        "since": datetime.fromisoformat("0001-01-02T00:00:00Z"),
        "any_state": True,
        "states": [],
        "limit": 21,
    }
    used = await plan(engine, listing._LIST, **parameters)
    assert "questions_owner" in used, used
    assert "Seq Scan on questions" not in used, used
    assert "Sort" not in used, used
    page = await list_questions(engine, OWNER, QuestionFilter([State.CANCELLED]), None, 20)
    assert page.questions == []
    assert page.next_after is not None
    found = await everything(engine, QuestionFilter([State.CANCELLED]), 20)
    assert len(found) == 1


async def test_pages_stay_apart_while_questions_come_and_go(engine: AsyncEngine) -> None:
    chance = random.Random(7)
    ids = [(await ask(engine, f"why {number}?")).question_id for number in range(20)]
    page = await list_questions(engine, OWNER, QuestionFilter(), None, 6)
    seen = [listed.id for listed in page.questions]
    while page.next_after is not None:
        await ask(engine, f"how {chance.random()}?")
        gone = chance.choice(seen)
        await rows(engine, "DELETE FROM questions WHERE id = :id RETURNING id", id=gone)
        page = await list_questions(engine, OWNER, QuestionFilter(), page.next_after, 6)
        seen += [listed.id for listed in page.questions]
    assert seen == ids[::-1]


async def test_a_page_of_a_state_that_nothing_is_in_looks_at_a_thousand_questions(engine: AsyncEngine) -> None:
    await many(engine, 1_500)
    wanted = QuestionFilter([State.FAILED])
    page = await list_questions(engine, OWNER, wanted, None, 20)
    assert page.questions == []
    assert page.next_after is not None
    newer = "SELECT count(*) FROM questions WHERE owner = :owner AND (created_at, id) >= (:at, :id)"
    place = page.next_after
    looked_at = await rows(engine, newer, owner=OWNER, at=place.created_at, id=place.question_id)
    assert looked_at[0].count == listing.MOST_SCANNED == 1_000
    assert (await list_questions(engine, OWNER, wanted, place, 20)).next_after is None
