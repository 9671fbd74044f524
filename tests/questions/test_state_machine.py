"""Concurrent actors in random programs: whatever they do at the same time, the promises hold.

A program is a list of rounds; the steps of a round run at once, each on a connection of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings
from questions.cancelling import cancel
from questions.claims import Claim, claim, fail, finish, interrupted, wait
from questions.erasing import erase
from questions.reading import Question, read
from questions.states import ErrorReason
from questions.sweeping import sweep
from questions.worker_leases import hand_back_all_but, renew_lease, retire_worker
from tests.questions.actors import OWNER, ask, completed, worker


@dataclass
class World:
    """What the actors know, and what they were told."""

    engine: AsyncEngine
    asked: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    results: dict[int, str] = field(default_factory=dict)
    finals: dict[int, Question] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)


async def no_copies(question_id: int, answer_id: int | None) -> None:
    """Copies in Redis play no part here."""


Step = Callable[[World], Awaitable[None]]


def asks(words: str, wait_seconds: float, fresh: bool, key: bytes | None) -> Step:
    async def step(world: World) -> None:
        options = {"wait": wait_seconds, "fresh": fresh, "key": key and key + words.encode()}
        world.asked.append((await ask(world.engine, words, **options)).question_id)

    return step


def claims(index: int, limit: int, suspects: bool) -> Step:
    async def step(world: World) -> None:
        if not world.workers:
            world.workers.append(await worker(world.engine))
        worker_id = world.workers[index % len(world.workers)]
        world.claims.extend(await claim(world.engine, worker_id, limit, suspects=suspects))

    return step


def finishes(index: int) -> Step:
    async def step(world: World) -> None:
        if world.claims:
            current = world.claims[index % len(world.claims)]
            words = f"answer {current.answer_id} by {current.token}"
            if await finish(world.engine, current, completed(words), 60):
                assert current.answer_id not in world.results, "two results were accepted for one answer"
                world.results[current.answer_id] = words

    return step


def gives_up(index: int, write: Callable[[AsyncEngine, Claim], Awaitable[bool]]) -> Step:
    async def step(world: World) -> None:
        if world.claims:
            await write(world.engine, world.claims[index % len(world.claims)])

    return step


def cancels(index: int) -> Step:
    async def step(world: World) -> None:
        if world.asked:
            await cancel(world.engine, OWNER, world.asked[index % len(world.asked)])

    return step


def erases(index: int) -> Step:
    async def step(world: World) -> None:
        if world.asked:
            question_id = world.asked[index % len(world.asked)]
            world.erased.add(question_id)
            await erase(world.engine, OWNER, question_id, no_copies)

    return step


def worker_dies(index: int) -> Step:
    async def step(world: World) -> None:
        if world.workers:
            await retire_worker(world.engine, world.workers.pop(index % len(world.workers)))

    return step


def hands_back(index: int) -> Step:
    async def step(world: World) -> None:
        if world.workers:
            await hand_back_all_but(world.engine, world.workers[index % len(world.workers)], ())

    return step


def heartbeats(index: int) -> Step:
    async def step(world: World) -> None:
        if world.workers:
            await renew_lease(world.engine, world.workers[index % len(world.workers)], 60)

    return step


async def sweeps(world: World) -> None:
    await sweep(world.engine, 10)


def sees(index: int) -> Step:
    async def step(world: World) -> None:
        if world.asked:
            await look(world, world.asked[index % len(world.asked)])

    return step


async def look(world: World, question_id: int) -> None:
    found = await read(world.engine, OWNER, question_id)
    if question_id in world.erased:
        return
    assert found is not None, "an accepted question is gone"
    if question_id in world.finals:
        assert found == world.finals[question_id], "a final state changed"
    elif found.state.is_final:
        world.finals[question_id] = found


INDEX = st.integers(0, 30)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        asks,
        st.sampled_from(["why?", "how?"]),
        st.sampled_from([600.0, 600.0, 1e-6]),
        st.booleans(),
        st.sampled_from([None, None, b"k"]),
    ),
    st.builds(claims, INDEX, st.integers(1, 3), st.booleans()),
    st.builds(finishes, INDEX),
    st.builds(cancels, INDEX),
    st.builds(erases, INDEX),
    st.builds(sees, INDEX),
    st.just(sweeps),
    st.builds(
        gives_up,
        INDEX,
        st.sampled_from(
            [
                lambda engine, current: wait(engine, current, 0),
                lambda engine, current: interrupted(engine, current, 0),
                lambda engine, current: fail(engine, current, ErrorReason.REQUEST_REFUSED),
            ]
        ),
    ),
    st.builds(worker_dies, INDEX),
    st.builds(heartbeats, INDEX),
    st.builds(hands_back, INDEX),
)

# Each of these rows would break a promise.
BROKEN = {
    "an unfinished answer that nobody waits for": """
        SELECT id FROM answers a WHERE state IN ('queued', 'in_progress')
        AND NOT EXISTS (SELECT FROM questions WHERE answer_id = a.id AND ended IS NULL)""",
    "a deadline that the sweeper would miss": """
        SELECT a.id FROM answers a JOIN questions q ON q.answer_id = a.id
        WHERE a.state IN ('queued', 'in_progress') AND q.ended IS NULL AND q.deadline < a.next_deadline""",
    "a cancelled or expired answer with a question that is neither": """
        SELECT a.id FROM answers a JOIN questions q ON q.answer_id = a.id
        WHERE a.state IN ('cancelled', 'expired') AND q.ended IS NULL""",
    "an answer of which nobody knows": """
        SELECT id FROM answers a WHERE NOT EXISTS (SELECT FROM questions WHERE answer_id = a.id)""",
}


async def run(database_url: str, program: list[list[Step]]) -> None:
    engine = create_engine(DatabaseSettings(database_url=SecretStr(database_url)), "tests")
    try:
        async with engine.begin() as connection:
            await connection.execute(text("TRUNCATE questions, answers, workers, ledger_entries"))
        world = World(engine)
        for steps in program:
            await asyncio.gather(*(step(world) for step in steps))
            async with engine.connect() as connection:
                for promise, statement in BROKEN.items():
                    assert not (await connection.execute(text(statement))).all(), promise
            for question_id in world.asked:
                await look(world, question_id)
        for found in world.finals.values():
            if found.text is not None:
                assert found.text == world.results[found.answer_id]
    finally:
        await engine.dispose()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(st.lists(STEPS, min_size=1, max_size=5), min_size=1, max_size=12))
def test_whatever_actors_do_at_once_the_promises_hold(database_url: str, program: list[list[Step]]) -> None:
    asyncio.run(run(database_url, program))
