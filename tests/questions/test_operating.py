from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from questions.asking import Source
from questions.cancelling import cancel
from questions.claims import GenerationResult, fail, finish, interrupted, wait
from questions.operating import _CONDITIONS, _LIST, QuestionSelection, list_questions, purge, replay
from questions.states import ErrorReason, FinishReason, State
from questions.sweeping import sweep
from questions.worker_leases import retire_worker
from tests.questions.actors import MODEL, OWNER, ask, asked, claim_one, completed, rows, seen, worker


async def age(engine: AsyncEngine, days: int) -> None:
    """As if all that was asked and answered had been so long ago."""
    columns = {"questions": ("created_at", "ended_at"), "answers": ("created_at", "finished_at")}
    for table, names in columns.items():
        older = ", ".join(f"{name} = {name} - make_interval(days => :days)" for name in names)
        await rows(engine, f"UPDATE {table} SET {older} RETURNING id", days=days)


async def ids(engine: AsyncEngine, selection: QuestionSelection) -> list[int]:
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

    assert await ids(engine, QuestionSelection.POISON) == [poison]
    assert await ids(engine, QuestionSelection.FAILED) == [failed, poison]
    assert await ids(engine, QuestionSelection.STUCK) == [waiting, lost]
    assert await ids(engine, QuestionSelection.ALL) == [waiting, lost, healthy, failed, poison]
    assert asked(current) == "c"


async def test_a_question_that_nobody_claims_is_stuck_after_a_minute(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    assert await ids(engine, QuestionSelection.STUCK) == []
    await rows(engine, "UPDATE questions SET created_at = created_at - interval '2 minutes' RETURNING id")
    assert await ids(engine, QuestionSelection.STUCK) == [asked.question_id]


async def test_a_replay_asks_again_and_leaves_the_old_question_as_it_ended(engine: AsyncEngine) -> None:
    old = await fails(engine, "why?")
    new = await replay(engine, old, 60)
    assert new is not None
    assert (await seen(engine, old)).state is State.FAILED
    assert (await seen(engine, old)).replayed_as == new
    current = await claim_one(engine, await worker(engine))
    assert (current.request, current.question_text) == (None, "why?")  # made anew, by the settings of now
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


async def test_an_answer_that_was_cut_is_generated_anew_for_all_who_shared_it(engine: AsyncEngine) -> None:
    """It could be reused, and is what the same question asked again would get."""
    first, second = await ask(engine, "why?"), await ask(engine, "why?")
    cut = GenerationResult(State.INCOMPLETE, "bec", FinishReason.OUTPUT_LIMIT, written_by=MODEL)
    assert await finish(engine, await claim_one(engine, await worker(engine)), cut, 3_600)
    assert (await ask(engine, "why?")).source is Source.CACHED

    new = [await replay(engine, old.question_id, 60) for old in (first, second)]

    assert await finish(engine, await claim_one(engine, await worker(engine)), completed("because"), 3_600)
    assert [(await seen(engine, n)).text for n in new if n] == ["because", "because"]
    assert (await seen(engine, first.question_id)).text == "bec"
    # Nobody knows by which settings it was generated: it is given to nobody else, and the old one is not touched.
    again = await ask(engine, "why?")
    assert (again.source, again.question and again.question.text) == (Source.CACHED, "bec")


async def test_a_replay_that_was_cut_again_can_be_replayed_again(engine: AsyncEngine) -> None:
    cut = GenerationResult(State.INCOMPLETE, "bec", FinishReason.OUTPUT_LIMIT, written_by=MODEL)
    newest = (await ask(engine, "why?")).question_id
    for _ in range(3):
        assert await finish(engine, await claim_one(engine, await worker(engine)), cut, 3_600)
        again = await replay(engine, newest, 60)
        assert again is not None
        newest = again
    assert len(await rows(engine, "SELECT id FROM answers")) == 4


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
    assert await finish(engine, await claim_one(engine, mine), completed(), 31_536_000)
    await age(engine, 2)
    again = await ask(engine, "c")
    assert again.source is Source.CACHED

    assert await purge(engine, timedelta(days=1), batch=2) == 2
    assert await ids(engine, QuestionSelection.ALL) == [again.question_id, old_live]
    assert (await seen(engine, again.question_id)).state is State.COMPLETED
    assert len(await rows(engine, "SELECT id FROM answers")) == 2
    assert {old_failed, shared}.isdisjoint(await ids(engine, QuestionSelection.ALL))


@pytest.mark.parametrize("selection", [QuestionSelection.FAILED, QuestionSelection.POISON])
async def test_what_has_failed_is_found_by_an_index_among_all_that_was_answered(
    engine: AsyncEngine, database_url: str, selection: QuestionSelection
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


@pytest.mark.parametrize("state", ["completed", "incomplete", "failed", "cancelled", "expired", "poison"])
async def test_purging_counts_from_the_end(engine: AsyncEngine, state: str) -> None:
    """What was asked long ago and has just ended, nobody may have read yet."""
    asked = await ask(engine, "why?")
    await age(engine, 2)
    current = await claim_one(engine, await worker(engine))
    match state:
        case "completed":
            await finish(engine, current, completed(), 60)
        case "incomplete":
            cut = GenerationResult(State.INCOMPLETE, "bec", FinishReason.TIME_LIMIT, written_by=MODEL)
            await finish(engine, current, cut, 60)
        case "failed":
            await fail(engine, current, ErrorReason.CONTEXT_TOO_LONG)
        case "cancelled":
            await cancel(engine, OWNER, asked.question_id)
        case "expired":
            await rows(engine, "UPDATE questions SET deadline = created_at RETURNING id")
            await rows(engine, "UPDATE answers SET next_deadline = created_at RETURNING id")
            await sweep(engine, 1)
        case "poison":
            await rows(engine, "UPDATE answers SET interruptions = 4 RETURNING id")
            await interrupted(engine, current, 0)
    assert (await seen(engine, asked.question_id)).state.is_final

    assert await purge(engine, timedelta(days=1), batch=2) == 0
    assert await ids(engine, QuestionSelection.ALL) == [asked.question_id]
    await age(engine, 2)
    assert await purge(engine, timedelta(days=1), batch=2) == 1
    assert await rows(engine, "SELECT id FROM answers") == []


async def test_a_question_that_left_long_ago_goes_while_its_answer_is_written_for_others(engine: AsyncEngine) -> None:
    left, stays = await ask(engine, "why?"), await ask(engine, "why?")
    await cancel(engine, OWNER, left.question_id)
    await age(engine, 2)
    assert await purge(engine, timedelta(days=1), batch=2) == 1
    assert await ids(engine, QuestionSelection.ALL) == [stays.question_id]
    assert len(await rows(engine, "SELECT id FROM answers")) == 1


async def test_purging_goes_beyond_a_batch_of_what_has_just_ended(engine: AsyncEngine) -> None:
    """The oldest may be the last to end: it must not hide those behind it."""
    waited = [(await ask(engine, f"long {n}")).question_id for n in range(5)]
    mine = await worker(engine)
    late = [await claim_one(engine, mine) for _ in waited]
    old = [await fails(engine, f"short {n}") for n in range(5)]
    await age(engine, 2)
    for current in late:
        assert await finish(engine, current, completed(), 60)
    young = await fails(engine, "young")

    assert await purge(engine, timedelta(days=1), batch=2) == len(old)
    assert await ids(engine, QuestionSelection.ALL) == [young, *reversed(waited)]
