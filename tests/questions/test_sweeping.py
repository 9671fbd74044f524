import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from questions.asking import Source
from questions.claims import finish, renew_lease
from questions.states import State
from questions.sweeping import sweep
from tests.questions.actors import ask, claim_one, completed, rows, seen, worker

pytestmark = pytest.mark.integration


async def test_a_question_past_its_deadline_expires_and_its_answer_with_it(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?", wait=1e-6)
    swept = await sweep(engine, 10)
    read = await seen(engine, asked.question_id)
    assert (read.state, swept.ended_answers, swept.due) == (State.EXPIRED, [read.answer_id], 0)


async def test_those_who_share_an_answer_expire_each_at_their_own_time(engine: AsyncEngine) -> None:
    patient = await ask(engine, "why?", wait=600)
    hasty = await ask(engine, "why?", wait=1e-6)
    current = await claim_one(engine, await worker(engine))
    assert (await sweep(engine, 10)).ended_answers == []
    assert (await seen(engine, hasty.question_id)).state is State.EXPIRED
    assert (await seen(engine, patient.question_id)).state is State.IN_PROGRESS
    assert await rows(engine, "SELECT next_deadline FROM answers") == await rows(
        engine, "SELECT deadline FROM questions WHERE id = :id", id=patient.question_id
    )
    assert await finish(engine, current, completed("because"), 60)
    assert (await seen(engine, hasty.question_id)).text is None


async def test_an_expired_answer_takes_no_result(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?", wait=1e-6)
    current = await claim_one(engine, await worker(engine))
    await sweep(engine, 10)
    assert not await finish(engine, current, completed(), 60)
    assert (await seen(engine, asked.question_id)).state is State.EXPIRED


async def test_an_answer_in_time_never_expires(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?", wait=1e-6)
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 60)
    await sweep(engine, 10)
    assert (await seen(engine, asked.question_id)).state is State.COMPLETED


async def test_a_living_workers_answers_are_left_alone(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    mine = await worker(engine)
    current = await claim_one(engine, mine)
    assert (await sweep(engine, 10)).lost == 0
    assert await renew_lease(engine, mine, 60) == frozenset({current.token})


async def test_reuse_ends_when_its_time_has_passed(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 60)
    await rows(engine, "UPDATE answers SET reuse_until = clock_timestamp() RETURNING id")
    await sweep(engine, 10)
    assert await rows(engine, "SELECT reusable FROM answers") == [(False,)]
    assert (await ask(engine, "why?")).source is Source.NEW


async def test_due_answers_are_counted_up_to_the_limit(engine: AsyncEngine) -> None:
    for n in range(5):
        await ask(engine, f"why {n}?")
    assert [(await sweep(engine, limit)).due for limit in (3, 10)] == [3, 5]


async def test_several_sweepers_at_once_take_each_loss_once(engine: AsyncEngine) -> None:
    dead = await worker(engine)
    for n in range(20):
        await ask(engine, f"why {n}?")
        await claim_one(engine, dead)
    await rows(engine, "UPDATE workers SET lease_until = clock_timestamp() RETURNING id")
    assert sum(s.lost for s in await asyncio.gather(*(sweep(engine, 10) for _ in range(4)))) == 20
    assert await rows(engine, "SELECT DISTINCT losses FROM answers") == [(1,)]


async def test_workers_long_dead_are_forgotten(engine: AsyncEngine) -> None:
    await worker(engine)
    alive = await worker(engine)
    await rows(
        engine,
        "UPDATE workers SET lease_until = lease_until - interval '2 hours' WHERE id <> :id RETURNING id",
        id=alive,
    )
    await sweep(engine, 10)
    assert await rows(engine, "SELECT id FROM workers") == [(alive,)]
