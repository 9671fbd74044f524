import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions import sweeping
from questions.asking import Source
from questions.claims import claim, finish
from questions.states import State
from questions.suspects import POISON_FROM, SUSPECT_FROM
from questions.sweeping import Availability, sweep
from questions.worker_leases import renew_lease
from tests.questions.actors import ask, claim_one, completed, rows, seen, worker


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


@pytest.mark.parametrize("failing", ["_REQUEUE_LOST", "_MAKE_DUE", "_LOCK_OVERDUE", "_STOP_REUSE", "_FORGET_WORKERS"])
@pytest.mark.parametrize("how", ["SELECT pg_cancel_backend(pg_backend_pid())", "SELECT 1 / 0"])
async def test_a_step_that_fails_stops_no_other(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, failing: str, how: str
) -> None:
    """The former is what PostgreSQL does to a statement that takes too long."""
    overdue = await ask(engine, "overdue?", wait=1e-6)
    waiting = await ask(engine, "waiting?")
    lost = await ask(engine, "lost?")
    stale = await ask(engine, "stale?")
    dead = await worker(engine)
    held = {current.answer_id: current for current in await claim(engine, dead, 4)}
    assert await finish(engine, held[(await seen(engine, stale.question_id)).answer_id], completed(), 60)
    await rows(engine, "UPDATE answers SET reuse_until = clock_timestamp() WHERE state = 'completed' RETURNING id")
    await rows(
        engine,
        "UPDATE answers SET state = 'queued', holder = NULL, due_at = clock_timestamp() WHERE id = :id RETURNING id",
        id=(await seen(engine, waiting.question_id)).answer_id,
    )
    await rows(engine, "UPDATE workers SET lease_until = clock_timestamp() - interval '2 hours' RETURNING id")
    monkeypatch.setattr(sweeping, failing, text(how))

    swept = await sweep(engine, 10)

    assert len(swept.failures) == 1
    done = {
        "_REQUEUE_LOST": (await seen(engine, lost.question_id)).state is State.QUEUED,
        "_MAKE_DUE": await rows(engine, "SELECT id FROM answers WHERE due_at IS NOT NULL") == [],
        "_LOCK_OVERDUE": (await seen(engine, overdue.question_id)).state is State.EXPIRED,
        "_STOP_REUSE": await rows(engine, "SELECT id FROM answers WHERE reusable AND state = 'completed'") == [],
    }
    assert {name for name, is_done in done.items() if not is_done} == {failing} & done.keys()
    assert {waiting.source, stale.source} == {Source.NEW}


async def test_an_answer_shared_by_many_expires_in_rounds(engine: AsyncEngine) -> None:
    await ask(engine, "why?", wait=1e-6)
    await rows(
        engine,
        """
        INSERT INTO questions (owner, text, language, answer_id, deadline)
        SELECT 'many', 'why?', 'en', answer_id, deadline FROM questions, generate_series(1, 24999) RETURNING answer_id
        """,
    )
    other = await ask(engine, "how?", wait=1e-6)
    swept = [await sweep(engine, 10) for _ in range(4)]

    assert [len(one.ended_answers) for one in swept] in ([0, 0, 2, 0], [1, 0, 1, 0])
    assert await rows(engine, "SELECT DISTINCT ended FROM questions") == [("expired",)]
    assert (await seen(engine, other.question_id)).state is State.EXPIRED


START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], None),
        ([0.0], None),
        ([0.0, 2.4, 4.8, 7.2], None),
        ([0.0, 2.0, 11.0, 13.0], 11.0),  # it hung, as a frozen server or a cut connection does
        ([0.0, None, 9.0, 11.0], 9.0),
        ([None, 9.0, 11.0], 9.0),  # it was away when this process began
        ([0.0, None, 1.0, None, 2.0], 2.0),
        ([0.0, None], None),
    ],
)
def test_since_when_postgresql_is_there(looks: list[float | None], expected: float | None) -> None:
    availability = Availability(lease_seconds=6, heartbeat_seconds=1)
    for look in looks:
        if look is None:
            availability.fails()
        else:
            availability.looks(START + timedelta(seconds=look))

    assert availability.since == (None if expected is None else START + timedelta(seconds=expected))


@pytest.mark.parametrize(
    ("ago", "outage_ended", "losses"),
    [
        (0.0, None, 1),
        (0.0, 60.0, 1),  # the worker had a minute to renew its lease
        (0.0, 1.0, 0),  # it had not
        (5.0, 1.0, 0),  # its lease ended in the outage
        (5.0, 9.0, 1),
    ],
)
async def test_a_loss_counts_where_the_worker_could_have_renewed_its_lease(
    engine: AsyncEngine, ago: float, outage_ended: float | None, losses: int
) -> None:
    # The server of these tests may have been started just now, which would be the end of an outage as well.
    age = "extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float"
    await rows(engine, f"SELECT pg_sleep(greatest(0, :ago + 4 - {age}))", ago=ago)
    await ask(engine, "why?")
    await claim_one(engine, await worker(engine))
    ((ended,),) = await rows(
        engine,
        "UPDATE workers SET lease_until = clock_timestamp() - make_interval(secs => :ago) RETURNING clock_timestamp()",
        ago=ago,
    )
    availability = Availability(lease_seconds=6, heartbeat_seconds=1)
    availability.looks(ended)
    if outage_ended is not None:
        availability.since = ended - timedelta(seconds=outage_ended)
    assert (await sweep(engine, 10, availability)).lost == 1
    assert await rows(engine, "SELECT losses, state FROM answers") == [(losses, "queued")]


@pytest.mark.parametrize(("tried", "expected"), [(0, (0, 1)), (1, (1, 0)), (2, (0, 0)), (3, (0, 0))])
async def test_who_was_tried_is_blamed_for_a_workers_death_and_only_if_alone(
    engine: AsyncEngine, tried: int, expected: tuple[int, int]
) -> None:
    dead = await worker(engine)
    for n in range(tried):
        await ask(engine, f"suspect {n}?")
    await rows(engine, f"UPDATE answers SET losses = {SUSPECT_FROM}, due_at = 'infinity' RETURNING id")
    suspects = await claim(engine, dead, 5, suspects=True)
    assert len(suspects) == tried
    for n in range(3):
        await ask(engine, f"innocent {n}?")
    assert len(await claim(engine, dead, 5)) == 3
    await rows(engine, "UPDATE workers SET lease_until = clock_timestamp() RETURNING id")

    assert (await sweep(engine, 10)).lost == tried + 3
    found = await rows(engine, "SELECT losses, due_at = 'infinity' FROM answers ORDER BY id")
    blamed, others = expected
    assert found[:tried] == [(SUSPECT_FROM + blamed, True)] * tried
    assert found[tried:] == [(others, None)] * 3


async def test_a_suspect_is_poison_after_two_losses_alone(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    await rows(engine, f"UPDATE answers SET losses = {SUSPECT_FROM}, due_at = 'infinity' RETURNING id")
    for _ in range(POISON_FROM - SUSPECT_FROM):
        await claim_one(engine, await worker(engine), suspects=True)
        await rows(engine, "UPDATE workers SET lease_until = clock_timestamp() RETURNING id")
        swept = await sweep(engine, 10)
        await rows(engine, "UPDATE answers SET trial_until = NULL RETURNING id")
    assert len(swept.ended_answers) == 1
    assert await rows(engine, "SELECT error_reason FROM answers") == [("poison",)]
