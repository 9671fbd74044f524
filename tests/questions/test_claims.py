import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from owners.token_counts import TokenCounts
from questions.cancelling import cancel
from questions.claims import GenerationResult, claim, fail, finish, interrupted, wait
from questions.states import ErrorReason, FinishReason, State
from questions.suspects import POISON_FROM, SUSPECT_FROM
from questions.sweeping import sweep
from questions.worker_leases import hand_back_all_but, renew_lease, retire_worker
from tests.questions.actors import OWNER, ask, asked, claim_one, completed, rows, seen, worker


async def test_an_answer_is_claimed_by_one_worker_only(engine: AsyncEngine) -> None:
    for n in range(10):
        await ask(engine, f"why {n}?")
    workers = [await worker(engine) for _ in range(4)]
    claimed = await asyncio.gather(*(claim(engine, w, 5) for w in workers))
    ids = [c.answer_id for claims in claimed for c in claims]
    assert len(ids) == len(set(ids)) == 10


async def test_claims_come_in_the_order_of_asking(engine: AsyncEngine) -> None:
    for n in range(5):
        await ask(engine, f"why {n}?")
    mine = await worker(engine)
    assert [asked(await claim_one(engine, mine)) for _ in range(5)] == [f"why {n}?" for n in range(5)]


async def test_the_result_is_what_the_reader_sees(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    assert (await seen(engine, asked.question_id)).state is State.IN_PROGRESS
    usage = TokenCounts(prompt_tokens=3, completion_tokens=2, cached_prompt_tokens=1)
    assert await finish(
        engine, current, GenerationResult(State.INCOMPLETE, "bec", FinishReason.OUTPUT_LIMIT, usage), 60
    )
    read = await seen(engine, asked.question_id)
    assert (read.state, read.text, read.finish_reason) == (State.INCOMPLETE, "bec", FinishReason.OUTPUT_LIMIT)
    assert read.usage == usage
    assert read.finished_at is not None


async def test_the_second_final_write_changes_nothing(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    current = await claim_one(engine, await worker(engine))
    wrote = await asyncio.gather(*(finish(engine, current, completed(f"text {n}"), 60) for n in range(4)))
    assert sorted(wrote) == [False, False, False, True]
    assert (await seen(engine, asked.question_id)).text == f"text {wrote.index(True)}"
    assert not await fail(engine, current, ErrorReason.REQUEST_REFUSED)


async def test_a_worker_whose_lease_ran_out_writes_nothing_and_claims_nothing(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    dead = await worker(engine)
    lost = await claim_one(engine, dead)
    await retire_worker(engine, dead)
    assert await renew_lease(engine, dead, 60) is None
    assert (await sweep(engine, 10)).lost == 1
    assert not await finish(engine, lost, completed("late"), 60)
    assert await claim(engine, dead, 1) == []
    current = await claim_one(engine, await worker(engine))
    assert not await finish(engine, lost, completed("late"), 60)
    assert await finish(engine, current, completed("in time"), 60)
    assert (await seen(engine, asked.question_id)).text == "in time"


async def test_a_heartbeat_tells_which_claims_are_still_mine(engine: AsyncEngine) -> None:
    mine = await worker(engine)
    first, second = await ask(engine, "why?"), await ask(engine, "how?")
    claims = await claim(engine, mine, 2)
    assert await renew_lease(engine, mine, 60) == frozenset(c.token for c in claims)
    await cancel(engine, OWNER, first.question_id)
    kept = [c for c in claims if asked(c) == "how?"]
    assert await renew_lease(engine, mine, 60) == frozenset(c.token for c in kept)
    assert (await seen(engine, second.question_id)).state is State.IN_PROGRESS


async def test_waiting_is_no_attempt_and_is_due_after_its_delay(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    mine = await worker(engine)
    assert await wait(engine, await claim_one(engine, mine), 3_600)
    assert (await sweep(engine, 10)).due == 0
    assert await claim(engine, mine, 1) == []
    await rows(engine, "UPDATE answers SET due_at = clock_timestamp() RETURNING id")
    assert (await sweep(engine, 10)).due == 1
    again = await claim_one(engine, mine)
    assert (again.attempt, again.waits, again.interruptions) == (2, 1, 0)
    assert (await seen(engine, asked.question_id)).state is State.IN_PROGRESS


async def test_what_is_handed_back_is_due_at_once(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    await ask(engine, "how?")
    mine = await worker(engine)
    kept, back = await claim(engine, mine, 2)
    await hand_back_all_but(engine, mine, [kept.token])
    again = await claim_one(engine, mine)
    assert again.answer_id == back.answer_id
    assert (again.waits, again.interruptions) == (0, 0)


async def test_what_breaks_the_engine_becomes_a_suspect_and_then_fails(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    mine = await worker(engine)
    for times in range(POISON_FROM):
        suspect = times >= SUSPECT_FROM
        assert await claim(engine, mine, 1, suspects=not suspect) == []
        assert await interrupted(engine, await claim_one(engine, mine, suspects=suspect), 0)
        await sweep(engine, 10)
    read = await seen(engine, asked.question_id)
    assert (read.state, read.error_reason) == (State.FAILED, ErrorReason.POISON)


async def test_what_kills_workers_becomes_a_suspect_and_then_fails(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    for times in range(POISON_FROM):
        mine = await worker(engine)
        await claim_one(engine, mine, suspects=times >= SUSPECT_FROM)
        await retire_worker(engine, mine)
        swept = await sweep(engine, 10)
        assert swept.lost == 1
    read = await seen(engine, asked.question_id)
    assert (read.state, read.error_reason) == (State.FAILED, ErrorReason.POISON)
    assert swept.ended_answers == [read.answer_id]


async def test_a_failed_answer_is_not_reused(engine: AsyncEngine) -> None:
    first = await ask(engine, "why?")
    assert await fail(engine, await claim_one(engine, await worker(engine)), ErrorReason.CONTEXT_TOO_LONG)
    second = await ask(engine, "why?")
    assert (await seen(engine, first.question_id)).error_reason is ErrorReason.CONTEXT_TOO_LONG
    assert (await seen(engine, second.question_id)).state is State.QUEUED
