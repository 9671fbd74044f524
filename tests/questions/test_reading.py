import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.token_counts import NO_TOKENS
from questions.cancelling import cancel
from questions.claims import finish
from questions.reading import read
from questions.states import State
from tests.questions.actors import OWNER, ask, claim_one, completed, rows, seen, worker


async def test_to_others_a_question_does_not_exist(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    assert await read(engine, "somebody else", asked.question_id) is None
    assert await cancel(engine, "somebody else", asked.question_id) is None
    assert (await seen(engine, asked.question_id)).state is State.QUEUED


async def test_cancelling_ends_the_question_and_the_answer_that_nobody_else_wants(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    assert await cancel(engine, OWNER, asked.question_id) == current.answer_id
    assert await cancel(engine, OWNER, asked.question_id) is None
    assert not await finish(engine, current, completed(), 60)
    assert (await seen(engine, asked.question_id)).state is State.CANCELLED


async def test_cancelling_leaves_the_answer_to_those_who_share_it(engine: AsyncEngine) -> None:
    first, second = await ask(engine, "why?"), await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    assert await cancel(engine, OWNER, first.question_id) is None
    assert await finish(engine, current, completed("because"), 60)
    cancelled, answered = await seen(engine, first.question_id), await seen(engine, second.question_id)
    assert (cancelled.state, cancelled.text, cancelled.usage) == (State.CANCELLED, None, NO_TOKENS)
    assert (answered.state, answered.text) == (State.COMPLETED, "because")


async def test_cancelling_what_is_final_changes_nothing(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 60)
    assert await cancel(engine, OWNER, asked.question_id) is None
    assert (await seen(engine, asked.question_id)).state is State.COMPLETED


async def test_a_cancel_that_races_with_completion_leaves_one_final_state(engine: AsyncEngine) -> None:
    mine = await worker(engine)
    for n in range(20):
        asked = await ask(engine, f"why {n}?")
        current = await claim_one(engine, mine)
        finished, cancelled = await asyncio.gather(
            finish(engine, current, completed(), 60), cancel(engine, OWNER, asked.question_id)
        )
        assert finished is (cancelled is None)
        expected = State.COMPLETED if finished else State.CANCELLED
        assert (await seen(engine, asked.question_id)).state is expected


async def test_cancelling_a_question_that_is_being_erased_finds_nothing(engine: AsyncEngine) -> None:
    """The cancel has found the question, and waits for the answer's row, which then is gone."""
    question = (await ask(engine, "why?")).question_id
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM answers FOR UPDATE"))
        cancelling = asyncio.create_task(cancel(engine, OWNER, question))
        async with asyncio.timeout(30):
            while not await rows(engine, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
        await connection.execute(text("DELETE FROM questions"))
        await connection.execute(text("DELETE FROM answers"))
    assert await cancelling is None
