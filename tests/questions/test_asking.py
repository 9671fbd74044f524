import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from questions.asking import IdempotencyKeyReusedError, Source
from questions.cancelling import cancel
from questions.claims import finish
from questions.states import State
from tests.questions.actors import OWNER, ask, claim_one, completed, rows, seen, worker


async def test_a_question_is_queued_with_its_text_unchanged(engine: AsyncEngine) -> None:
    words = "  Что такое «квант»? 👩‍🚀 مرحبا\r\n "
    accepted = await ask(engine, words)
    assert accepted.source is Source.NEW
    assert (await seen(engine, accepted.question_id)).state is State.QUEUED
    assert await rows(engine, "SELECT text FROM questions") == [(words,)]


async def test_the_same_question_in_flight_shares_one_answer(engine: AsyncEngine) -> None:
    asked = await asyncio.gather(*(ask(engine, "why?") for _ in range(8)))
    assert sorted(a.source or "" for a in asked) == [Source.COALESCED] * 7 + [Source.NEW]
    assert len({a.question_id for a in asked}) == 8
    assert len(await rows(engine, "SELECT id FROM answers")) == 1


async def test_a_finished_answer_serves_the_next_one_who_asks(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed("because"), 60)
    again = await ask(engine, "why?")
    assert again.source is Source.CACHED
    assert (await seen(engine, again.question_id)).text == "because"


async def test_a_finished_answer_is_not_reused_where_reuse_is_off(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 0)
    assert (await ask(engine, "why?")).source is Source.NEW


async def test_a_finished_answer_past_its_time_is_not_reused_even_before_the_sweeper_comes(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 60)
    await rows(engine, "UPDATE answers SET reuse_until = clock_timestamp() RETURNING id")
    assert (await ask(engine, "why?")).source is Source.NEW


async def test_fresh_shares_neither_a_finished_answer_nor_one_in_flight(engine: AsyncEngine) -> None:
    first = await ask(engine, "why?")
    second = await ask(engine, "why?", fresh=True)
    third = await ask(engine, "why?")
    assert (second.source, third.source) == (Source.NEW, Source.COALESCED)
    one, two, three = [(await seen(engine, a.question_id)).answer_id for a in (first, second, third)]
    assert one != two == three


async def test_concurrent_fresh_questions_are_all_accepted(engine: AsyncEngine) -> None:
    asked = await asyncio.gather(*(ask(engine, "why?", fresh=True) for _ in range(8)))
    assert {a.source for a in asked} == {Source.NEW}
    assert len(await rows(engine, "SELECT id FROM answers WHERE reusable")) == 1


async def test_the_same_key_and_body_give_the_same_question(engine: AsyncEngine) -> None:
    first = await ask(engine, "why?", key=b"key", body=b"body")
    again = await ask(engine, "why?", key=b"key", body=b"body")
    assert (again.question_id, again.replayed, first.replayed) == (first.question_id, True, False)


async def test_simultaneous_duplicates_make_one_question(engine: AsyncEngine) -> None:
    asked = await asyncio.gather(*(ask(engine, "why?", key=b"key", body=b"body") for _ in range(8)))
    assert len({a.question_id for a in asked}) == 1
    assert sorted(a.replayed for a in asked) == [False] + [True] * 7
    assert len(await rows(engine, "SELECT id FROM questions")) == 1
    assert len(await rows(engine, "SELECT id FROM answers")) == 1


async def test_simultaneous_duplicates_with_other_texts_leave_no_answer_without_a_question(engine: AsyncEngine) -> None:
    asked = await asyncio.gather(
        *(ask(engine, f"why {n}?", key=b"key", body=str(n).encode()) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(a, IdempotencyKeyReusedError) for a in asked) == 7
    assert len(await rows(engine, "SELECT id FROM answers")) == 1


async def test_the_same_key_with_another_body_is_refused(engine: AsyncEngine) -> None:
    await ask(engine, "why?", key=b"key", body=b"body")
    with pytest.raises(IdempotencyKeyReusedError):
        await ask(engine, "why?", key=b"key", body=b"other")


async def test_a_cancelled_answer_is_not_joined(engine: AsyncEngine) -> None:
    first = await ask(engine, "why?")
    await cancel(engine, OWNER, first.question_id)
    assert (await ask(engine, "why?")).source is Source.NEW


async def test_asking_while_the_last_one_cancels_never_joins_what_is_cancelled(engine: AsyncEngine) -> None:
    for _ in range(20):
        first = await ask(engine, "why?")
        second, _ = await asyncio.gather(ask(engine, "why?"), cancel(engine, OWNER, first.question_id))
        assert (await seen(engine, second.question_id)).state is State.QUEUED
        await cancel(engine, OWNER, second.question_id)


async def test_a_shorter_wait_brings_the_answers_deadline_forward_and_a_longer_one_does_not(
    engine: AsyncEngine,
) -> None:
    async def next_deadline() -> object:
        return (await rows(engine, "SELECT next_deadline FROM answers"))[0].next_deadline

    await ask(engine, "why?", wait=100)
    at_first = await next_deadline()
    await ask(engine, "why?", wait=500)
    assert await next_deadline() == at_first
    await ask(engine, "why?", wait=10)
    assert await rows(engine, "SELECT min(deadline) FROM questions") == [(await next_deadline(),)]
