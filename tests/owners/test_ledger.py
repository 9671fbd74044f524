"""What is booked, once, whoever folds and whatever is erased."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from live.answer_stream import RunningUsage
from owners.ledger import UsageTotals, fold, read_budgets, read_days
from owners.token_counts import TokenCounts
from questions.booking import book
from questions.cancelling import cancel
from questions.claims import finish, interrupted
from questions.operating import purge
from tests.questions.actors import OWNER, ask, claim_one, completed, rows, worker

FINISHED = UsageTotals(prompt_tokens=3, completion_tokens=2)


async def spent(engine: AsyncEngine) -> UsageTotals:
    today = datetime.now(UTC).date()
    days = await read_days(engine, OWNER, today - timedelta(days=3), today)
    return sum(days.values(), start=UsageTotals())


async def fold_all(engine: AsyncEngine) -> None:
    await rows(engine, "UPDATE ledger_entries SET at = at - interval '2 minutes' RETURNING owner")

    async def once() -> None:
        async with engine.begin() as connection:
            await fold(connection)

    await asyncio.gather(*(once() for _ in range(4)))


async def test_questions_count_each_and_tokens_once(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    await ask(engine, "why?")  # coalesced
    assert await spent(engine) == UsageTotals(requests=2)
    assert await finish(engine, await claim_one(engine, await worker(engine)), completed(), 60)
    await ask(engine, "why?")  # cached
    assert await spent(engine) == UsageTotals(requests=3) + FINISHED


async def test_a_replay_is_no_question(engine: AsyncEngine) -> None:
    await ask(engine, "why?", key=b"key", body=b"body")
    await ask(engine, "why?", key=b"key", body=b"body")
    assert await spent(engine) == UsageTotals(requests=1)


async def test_folding_changes_nothing_whoever_folds_at_once_and_erasing_takes_nothing_back(
    engine: AsyncEngine,
) -> None:
    worker_id = await worker(engine)
    for number in range(20):
        await ask(engine, f"question {number}")
        assert await finish(engine, await claim_one(engine, worker_id), completed(), 60)
    before = await spent(engine)
    assert (before.requests, before.total_tokens) == (20, 20 * 5)
    await fold_all(engine)
    assert await rows(engine, "SELECT owner FROM ledger_entries") == []
    assert len(await rows(engine, "SELECT day FROM ledger_days")) in (1, 2)  # midnight may have been two minutes ago
    await purge(engine, timedelta())
    assert await rows(engine, "SELECT id FROM answers") == []
    await ask(engine, "one more")
    assert await spent(engine) == before + UsageTotals(requests=1)
    await fold_all(engine)
    assert await spent(engine) == before + UsageTotals(requests=1)


async def test_an_entry_of_the_last_minute_is_kept_apart(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    async with engine.begin() as connection:
        await fold(connection)
    assert len(await rows(engine, "SELECT owner FROM ledger_entries")) == 1


async def test_what_an_answer_took_until_it_was_cancelled_is_booked_once(engine: AsyncEngine) -> None:
    asked = await ask(engine, "why?")
    claim = await claim_one(engine, await worker(engine))
    await cancel(engine, OWNER, asked.question_id)
    for _ in range(2):  # as after a commit whose outcome was not learned
        await book(
            engine,
            claim,
            RunningUsage(prompt_tokens=7, completion_tokens=30, cached_prompt_tokens=4, repeated_tokens=1, pieces=30),
        )
    assert await spent(engine) == UsageTotals(
        requests=1, prompt_tokens=7, completion_tokens=30, cached_prompt_tokens=4, repeated_tokens=1
    )


async def test_whose_claim_is_not_current_books_nothing(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    worker_id = await worker(engine)
    claim = await claim_one(engine, worker_id)
    assert await interrupted(engine, claim, 0)
    await rows(engine, "UPDATE answers SET due_at = NULL RETURNING id")
    await claim_one(engine, worker_id)
    await book(engine, claim, RunningUsage(prompt_tokens=7, completion_tokens=30, pieces=30))
    assert await spent(engine) == UsageTotals(requests=1)


async def test_an_erased_answer_is_paid_for(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    worker_id = await worker(engine)
    first = await claim_one(engine, worker_id)
    await book(engine, first, RunningUsage(prompt_tokens=7, completion_tokens=10, pieces=10))
    assert await interrupted(engine, first, 0)
    await rows(engine, "UPDATE answers SET due_at = NULL RETURNING id")
    second = await claim_one(engine, worker_id)
    assert second.spent == TokenCounts(prompt_tokens=7, completion_tokens=10)
    await rows(engine, "DELETE FROM questions RETURNING id")
    await rows(engine, "DELETE FROM answers RETURNING id")
    await book(engine, second, RunningUsage(prompt_tokens=7, completion_tokens=25, repeated_tokens=17, pieces=25))
    assert await spent(engine) == UsageTotals(requests=1, prompt_tokens=7, completion_tokens=25, repeated_tokens=17)


async def test_an_attempt_after_a_booked_one_is_charged_for_the_rest(engine: AsyncEngine) -> None:
    await ask(engine, "why?")
    worker_id = await worker(engine)
    first = await claim_one(engine, worker_id)
    await book(engine, first, RunningUsage(prompt_tokens=3, completion_tokens=1, pieces=1))
    assert await interrupted(engine, first, 0)
    await rows(engine, "UPDATE answers SET due_at = NULL RETURNING id")
    assert await finish(engine, await claim_one(engine, worker_id), completed(), 60)
    assert await spent(engine) == UsageTotals(requests=1) + FINISHED


async def test_budgets_count_the_day_the_month_and_the_last_minute(engine: AsyncEngine) -> None:
    await rows(
        engine,
        """INSERT INTO ledger_days
            (owner, day, requests, prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens)
        SELECT owner, (now() AT TIME ZONE 'UTC')::date - ago, 1, 1000, 100, 50, 10
        FROM (VALUES ('a', 0), ('a', 40), ('b', 0)) AS spent(owner, ago) RETURNING owner""",
    )
    await rows(
        engine,
        """INSERT INTO ledger_entries (owner, at, prompt_tokens)
        SELECT 'a', clock_timestamp() - make_interval(secs => s), 1
        FROM (VALUES (5), (5), (30)) AS spent(s) RETURNING owner""",
    )
    budgets = await read_budgets(engine, ["a", "b", "nobody"])
    assert budgets["b"].day == budgets["b"].month == 1_110
    assert budgets["a"].month in (1_113, 1_110)  # the month may have begun a moment ago
    assert [tokens for _, tokens in budgets["a"].lately] == [2, 1]
    assert budgets["nobody"].day == 0
