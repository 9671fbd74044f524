from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.database import create_engine
from foundation.settings import DatabaseSettings
from questions.asking import Source
from questions.claims import fail, finish, retire_worker, wait
from questions.operating import _CONDITIONS, _LIST, Selection, list_questions, purge, replay
from questions.reading import cancel
from questions.states import ErrorReason, State
from tests.questions.actors import OWNER, ask, claim_one, completed, rows, seen, worker

pytestmark = pytest.mark.integration


async def ids(engine: AsyncEngine, selection: Selection) -> list[int]:
    return [entry.id for entry in await list_questions(engine, selection, 100)]


async def fails(engine: AsyncEngine, words: str, reason: ErrorReason = ErrorReason.REQUEST_REFUSED) -> int:
    asked = await ask(engine, words)
    assert await fail(engine, await claim_one(engine, await worker(engine)), reason)
    return asked.question_id


async def test_each_selection_lists_what_it_says(engine: AsyncEngine) -> None:
    poison = await fails(engine, "a", ErrorReason.POISON)
    failed = await fails(engine, "b")
    healthy = (await ask(engine, "c")).question_id
    current = await claim_one(engine, await worker(engine))
    lost = (await ask(engine, "d")).question_id
    dead = await worker(engine)
    await claim_one(engine, dead)
    await retire_worker(engine, dead)
    waiting = (await ask(engine, "e")).question_id
    assert await wait(engine, await claim_one(engine, await worker(engine)), 60)

    assert await ids(engine, Selection.POISON) == [poison]
    assert await ids(engine, Selection.FAILED) == [failed, poison]
    assert await ids(engine, Selection.STUCK) == [waiting, lost]
    assert await ids(engine, Selection.ALL) == [waiting, lost, healthy, failed, poison]
    assert current.question_text == "c"


async def test_a_question_that_nobody_claims_is_stuck_after_a_minute(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    assert await ids(engine, Selection.STUCK) == []
    await rows(engine, "UPDATE questions SET created_at = created_at - interval '2 minutes' RETURNING id")
    assert await ids(engine, Selection.STUCK) == [asked.question_id]


async def test_a_replay_asks_again_and_leaves_the_old_question_as_it_ended(engine: AsyncEngine) -> None:
    old = await fails(engine, "why?")
    new = await replay(engine, old, 60)
    assert new is not None
    assert (await seen(engine, old)).state is State.FAILED
    assert (await seen(engine, old)).replayed_as == new
    current = await claim_one(engine, await worker(engine))
    assert current.question_text == "why?"
    assert await finish(engine, current, completed("because"), 60)
    assert (await seen(engine, new)).text == "because"
    assert await replay(engine, old, 60) is None
    assert await replay(engine, new, 60) is None


async def test_a_replay_that_was_cut_short_finds_the_question_that_it_made(engine: AsyncEngine) -> None:
    old = await fails(engine, "why?")
    new = await replay(engine, old, 60)
    await rows(engine, "UPDATE questions SET replayed_as = NULL RETURNING id")
    assert await replay(engine, old, 60) == new


async def test_replays_of_the_same_question_share_one_generation(engine: AsyncEngine) -> None:
    first, second = await ask(engine, "why?"), await ask(engine, "why?")
    assert await fail(engine, await claim_one(engine, await worker(engine)), ErrorReason.POISON)
    for old in (first, second):
        assert await replay(engine, old.question_id, 60) is not None
    assert len(await rows(engine, "SELECT id FROM answers")) == 2


async def test_only_what_ended_without_a_whole_answer_is_replayed(engine: AsyncEngine) -> None:
    live = await ask(engine, "why?")
    assert await replay(engine, live.question_id, 60) is None
    await cancel(engine, OWNER, live.question_id)
    assert await replay(engine, live.question_id, 60) is not None
    assert await replay(engine, 2**53 - 1, 60) is None


async def test_purging_removes_what_is_final_and_old_and_nothing_else(engine: AsyncEngine) -> None:
    old_failed = await fails(engine, "a")
    old_live = (await ask(engine, "b")).question_id
    shared = (await ask(engine, "c")).question_id
    mine = await worker(engine)
    await claim_one(engine, mine)
    assert await finish(engine, await claim_one(engine, mine), completed(), 3_600)
    await rows(engine, "UPDATE questions SET created_at = created_at - interval '2 days' RETURNING id")
    again = await ask(engine, "c")
    assert again.source is Source.CACHED

    assert await purge(engine, timedelta(days=1)) == 2
    assert await ids(engine, Selection.ALL) == [again.question_id, old_live]
    assert (await seen(engine, again.question_id)).state is State.COMPLETED
    assert len(await rows(engine, "SELECT id FROM answers")) == 2
    assert {old_failed, shared}.isdisjoint(await ids(engine, Selection.ALL))


@pytest.mark.parametrize("selection", [Selection.FAILED, Selection.POISON])
async def test_what_has_failed_is_found_by_an_index_among_all_that_was_answered(
    engine: AsyncEngine, database_url: str, selection: Selection
) -> None:
    await rows(
        engine,
        """
        WITH answer AS (
            INSERT INTO answers (answer_key, reusable, model, state, next_deadline, finished_at, text, error_reason)
            SELECT sha256(n::text::bytea), false, '', CASE WHEN n % 5000 = 1 THEN 'failed' ELSE 'completed' END, now(),
                now(), CASE WHEN n % 5000 = 1 THEN NULL ELSE 'because' END,
                CASE WHEN n % 5000 = 1 THEN 'poison' ELSE NULL END
            FROM generate_series(1, 20000) AS n RETURNING id
        )
        INSERT INTO questions (owner, text, language, answer_id, deadline)
        SELECT 'local', 'why?', 'en', id, now() FROM answer RETURNING id
        """,
    )
    statement = f"{_LIST} WHERE {_CONDITIONS[selection]} ORDER BY q.id DESC LIMIT 100"
    operators = create_engine(DatabaseSettings(database_url=SecretStr(database_url)), "operations", planned_freely=True)
    async with operators.connect() as connection:
        await connection.execute(text("ANALYZE answers, questions"))
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {statement}"))).scalars())
    await operators.dispose()
    assert "answers_failed" in plan, plan
    assert "Seq Scan on answers" not in plan, plan
    assert len(await ids(engine, selection)) == 4
