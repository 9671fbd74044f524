"""Fairness: what turns bound, whoever asks how much."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from owners.priority import Priority
from owners.turns import STEPS, OwnerQueue, Turns, TurnSample, next_turn, sample
from questions.asking import Source, accept
from questions.cancelling import cancel
from questions.claims import claim, wait
from questions.sweeping import sweep
from questions.worker_leases import hand_back_all_but, retire_worker
from tests.questions.actors import claim_one, question, rows, worker

NORMAL = Priority.NORMAL
STEP = STEPS[NORMAL]


def queue(owner: str, priority: Priority = NORMAL) -> OwnerQueue:
    return OwnerQueue(owner, priority)


def nothing(last_claim: int) -> TurnSample:
    return TurnSample(last_claim, 0, {})


def test_flows_that_wait_advance_side_by_side() -> None:
    turns = Turns()
    assert [turns.next(queue("a")) for _ in range(3)] == [STEP, 2 * STEP, 3 * STEP]
    assert turns.next(queue("b")) == STEP


def test_who_begins_to_ask_begins_where_the_claims_are() -> None:
    turns = Turns()
    turns.take(nothing(1_000))
    assert turns.next(queue("a")) == 1_000 + STEP


def test_of_a_flow_whose_questions_are_gone_nothing_stays() -> None:
    turns = Turns()
    for _ in range(5_000):
        turns.next(queue("a"))
    for _ in range(3):
        turns.begin_sample()
        turns.take(nothing(0))
    assert turns.next(queue("a")) == STEP
    assert turns.begin_sample() == [queue("a")]


def test_what_is_given_while_a_sample_is_taken_counts_after_it() -> None:
    turns = Turns()
    turns.begin_sample()
    given_meanwhile = turns.next(queue("a"))
    turns.take(nothing(0))
    assert turns.next(queue("a")) == given_meanwhile + STEP


def test_a_turn_that_was_not_used_is_given_again() -> None:
    turns = Turns()
    first = turns.next(queue("a"))
    turns.give_back(queue("a"))
    assert turns.next(queue("a")) == first


def test_an_owners_priorities_are_flows_of_their_own() -> None:
    turns = Turns()
    for _ in range(100):
        turns.next(queue("a"))
    assert turns.next(queue("a", Priority.HIGH)) == STEPS[Priority.HIGH]
    assert turns.next(queue("a", Priority.LOW)) == STEPS[Priority.LOW]


def test_a_claim_of_what_was_handed_back_does_not_turn_time_back() -> None:
    turns = Turns()
    turns.take(nothing(1_000))
    turns.take(nothing(3))
    assert turns.next(queue("a")) == 1_000 + STEP


@dataclass
class Edge:
    """An api_service process: gives turns, asks, and samples when it is told to."""

    engine: AsyncEngine
    turns: Turns = field(default_factory=Turns)

    async def look(self) -> None:
        self.turns.take(await sample(self.engine, self.turns.begin_sample()))

    async def ask(self, owner: str, words: str, priority: Priority = NORMAL) -> int:
        turn = self.turns.next(queue(owner, priority))
        accepted = await accept(self.engine, replace(question(words), owner=owner, turn=turn, priority=priority))
        assert accepted.source is Source.NEW
        return accepted.question_id


async def flood(engine: AsyncEngine, edge: Edge, owner: str, count: int) -> None:
    """As so many questions through this process would, in one statement."""
    turns = [edge.turns.next(queue(owner)) for _ in range(count)]
    await rows(
        engine,
        """
        WITH answer AS (
            INSERT INTO answers (answer_key, reusable, model, owner, turn, next_deadline)
            SELECT sha256((:owner || turn)::bytea), true, '', :owner, turn, clock_timestamp() + interval '1 hour'
            FROM unnest(CAST(:turns AS bigint[])) AS turn RETURNING id, owner, next_deadline
        )
        INSERT INTO questions (owner, text, language, answer_id, deadline)
        SELECT owner, 'flood', 'en', id, next_deadline FROM answer RETURNING id
        """,
        owner=owner,
        turns=turns,
    )


async def place(engine: AsyncEngine, question_id: int) -> int:
    """How many answers are claimed before this question's."""
    statement = """
        SELECT count(*) FROM answers a, answers mine JOIN questions q ON q.answer_id = mine.id
        WHERE q.id = :id AND a.state = 'queued' AND a.due_at IS NULL AND (a.turn, a.id) < (mine.turn, mine.id)
    """
    return int((await rows(engine, statement, id=question_id))[0][0])


async def test_5000_questions_of_one_owner_delay_anothers_first_by_one_claim(engine: AsyncEngine) -> None:
    edge, worker_id = Edge(engine), await worker(engine)
    await flood(engine, edge, "flood", 5_000)
    await claim(engine, worker_id, 512)
    await edge.look()
    assert await place(engine, await edge.ask("other", "the other's")) == 1
    # Through a process that has just started, too, and for a third owner.
    fresh = Edge(engine)
    await fresh.look()
    assert await place(engine, await fresh.ask("third", "the third's")) <= 2
    assert await place(engine, await fresh.ask("third", "the third's second")) > 2


async def test_5000_questions_that_were_cancelled_delay_nobody_not_even_their_owner(engine: AsyncEngine) -> None:
    edge = Edge(engine)
    await flood(engine, edge, "flood", 5_000)
    await rows(
        engine,
        """UPDATE answers SET state = 'cancelled', reusable = false, finished_at = clock_timestamp()
        WHERE owner = 'flood' RETURNING id""",
    )
    assert await place(engine, await edge.ask("other", "the other's")) == 0
    for _ in range(2):  # what was given since the sample before the last has to be forgotten
        await edge.look()
    again = await edge.ask("flood", "again")
    assert await place(engine, again) == 1
    assert await place(engine, await edge.ask("third", "the third's")) == 2


@pytest.mark.parametrize("how_it_ended", ["claimed", "cancelled", "claimed by one that died"])
async def test_turns_go_on_where_they_were_after_nothing_was_asked_and_one_process_was_started_again(
    engine: AsyncEngine, how_it_ended: str
) -> None:
    """``how_it_ended``: what became of the many questions before the pause."""
    first, second, worker_id = Edge(engine), Edge(engine), await worker(engine)
    await flood(engine, first, "a", 600)
    if how_it_ended == "cancelled":
        await rows(engine, "UPDATE answers SET due_at = clock_timestamp() WHERE turn < 2000 RETURNING id")
        await first.look()  # its head, which is cancelled before it was claimed, is what turns go by
    else:
        assert len(await claim(engine, worker_id, 1_000)) == 600
    if how_it_ended == "claimed by one that died":
        await retire_worker(engine, worker_id)
        await sweep(engine, 1)
    await rows(
        engine,
        """UPDATE answers SET state = 'cancelled', holder = NULL, reusable = false, finished_at = clock_timestamp()
        RETURNING id""",
    )
    for _ in range(2):
        await first.look()
    second = Edge(engine)  # started again
    await second.look()
    await flood(engine, second, "b", 100)
    its_first = await first.ask("a", "the only one")
    assert await place(engine, its_first) <= 2, "at most as many of the other's as there are processes"
    claimed = [(await claim_one(engine, await worker(engine))).owner for _ in range(4)]
    assert claimed == ["b", "a", "b", "b"]


async def test_a_claim_of_what_was_handed_back_leaves_the_latest_turn_as_it_is(engine: AsyncEngine) -> None:
    edge, worker_id = Edge(engine), await worker(engine)
    await flood(engine, edge, "a", 10)
    await claim(engine, worker_id, 1)
    await claim(engine, worker_id, 8)
    assert (await sample(engine, [])).last_claim == 9 * STEP + 3, "the head of the queue is the tenth"
    await hand_back_all_but(engine, worker_id, ())
    assert (await sample(engine, [])).last_claim == 9 * STEP + 3
    await claim(engine, worker_id, 1)
    assert (await sample(engine, [])).last_claim == 9 * STEP + 3


async def test_what_is_handed_back_or_waits_keeps_its_turn(engine: AsyncEngine) -> None:
    edge, worker_id = Edge(engine), await worker(engine)
    first = await edge.ask("a", "first")
    await edge.ask("a", "second")
    (claimed,) = await claim(engine, worker_id, 1)
    await hand_back_all_but(engine, worker_id, ())
    assert await place(engine, first) == 0
    (again,) = await claim(engine, worker_id, 1)
    assert again.answer_id == claimed.answer_id
    assert await wait(engine, again, 0)
    await rows(engine, "UPDATE answers SET due_at = NULL WHERE state = 'queued' RETURNING id")
    assert await place(engine, first) == 0


async def test_who_joins_an_answer_that_is_far_behind_brings_it_to_its_own_turn(engine: AsyncEngine) -> None:
    edge = Edge(engine)
    await flood(engine, edge, "flood", 50)
    last = replace(question("shared"), owner="flood", turn=edge.turns.next(queue("flood")))
    await accept(engine, last)
    joined = await accept(engine, replace(last, owner="other", turn=edge.turns.next(queue("other"))))
    assert joined.source is Source.COALESCED
    assert await place(engine, joined.question_id) == 1


async def test_an_operator_who_asks_again_waits_behind_the_owners_others(engine: AsyncEngine) -> None:
    edge = Edge(engine)
    await flood(engine, edge, "flood", 10)
    assert await next_turn(engine, queue("flood")) == 11 * STEP
    assert await next_turn(engine, queue("other")) < 2 * STEP


@asynccontextmanager
async def emptied(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(database_url)), "tests")
    try:
        async with engine.begin() as connection:
            await connection.execute(text("TRUNCATE questions, answers, workers, ledger_entries"))
            await connection.execute(text("SELECT setval('claimed_turns', 0)"))
        yield engine
    finally:
        await engine.dispose()


OWNERS = ("a", "b", "c")
ACTIONS = st.one_of(
    st.tuples(
        st.just("ask"), st.integers(0, 1), st.sampled_from(OWNERS), st.integers(1, 6), st.sampled_from(list(Priority))
    ),
    st.tuples(st.just("look"), st.integers(0, 1)),
    st.tuples(st.just("claim"), st.integers(1, 5)),
    st.tuples(st.just("hand back")),
    st.tuples(st.just("cancel"), st.sampled_from(OWNERS)),
)


async def play(edges: list[Edge], worker_id: int, program: list[tuple[object, ...]]) -> None:
    engine, count = edges[0].engine, 0
    for action, *arguments in program:
        match action, arguments:
            case "ask", [int(at), str(owner), int(times), Priority() as priority]:
                for _ in range(times):
                    count += 1
                    await edges[at].ask(owner, f"question {count}", priority)
            case "look", [int(at)]:
                await edges[at].look()
            case "claim", [int(limit)]:
                await claim(engine, worker_id, limit)
            case "hand back", _:
                await hand_back_all_but(engine, worker_id, ())
            case "cancel", [str(owner)]:
                for row in await rows(engine, "SELECT id FROM questions WHERE owner = :owner", owner=owner):
                    await cancel(engine, owner, row.id)


async def check_first(database_url: str, program: list[tuple[object, ...]]) -> None:
    async with emptied(database_url) as engine:
        edges, worker_id = [Edge(engine), Edge(engine)], await worker(engine)
        for edge in edges:
            await edge.look()
        await play(edges, worker_id, program)
        # What was claimed and handed back is before everything, once.
        before = len(await rows(engine, "SELECT id FROM answers WHERE state = 'queued' AND attempt > 0"))
        await edges[0].look()
        first = await edges[0].ask("newcomer", "first")
        # Of each queue, as many as it gets in the time of one normal question, through each process.
        bound = before + len(OWNERS) * len(edges) * sum(math.ceil(STEP / step) for step in STEPS.values())
        # Processes that have not looked for long give turns that are past: at most what they gave in that time.
        stale = "SELECT count(*) FROM answers WHERE state = 'queued' AND attempt = 0 AND turn <= :last"
        last = (await sample(engine, [])).last_claim
        bound += int((await rows(engine, stale, last=last))[0][0])
        assert await place(engine, first) <= bound


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(ACTIONS, max_size=12))
def test_whatever_others_did_the_first_question_of_an_owner_is_soon_its_turn(
    database_url: str, program: list[tuple[object, ...]]
) -> None:
    asyncio.run(check_first(database_url, program))


async def check_starvation(database_url: str, program: list[tuple[object, ...]]) -> None:
    async with emptied(database_url) as engine:
        edges, worker_id = [Edge(engine), Edge(engine)], await worker(engine)
        for edge in edges:
            await edge.look()
        await play(edges, worker_id, program)
        await edges[0].look()
        victim = await edges[0].ask("victim", "low", Priority.LOW)
        ahead = await place(engine, victim)
        # For each claim from now on, every owner asks once more with high priority, and each process looks.
        most = ahead + len(OWNERS) * len(edges) * STEPS[Priority.LOW]
        for number in range(most + 1):
            if not await rows(engine, "SELECT id FROM answers WHERE state = 'queued' AND owner = 'victim'"):
                return
            for index, owner in enumerate(OWNERS):
                await edges[(number + index) % 2].ask(owner, f"again {number} {owner}", Priority.HIGH)
            await claim(engine, worker_id, 1)
            for edge in edges:
                await edge.look()
        pytest.fail(f"a low question is not claimed after {most} claims")


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(ACTIONS, max_size=8))
def test_a_low_question_is_answered_however_many_high_ones_come(
    database_url: str, program: list[tuple[object, ...]]
) -> None:
    asyncio.run(check_starvation(database_url, program))
