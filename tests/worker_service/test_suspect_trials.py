"""Suspects, and who is to blame when the engine breaks off answers."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions import claims, suspects
from tests.worker_service.asking import answers, ask, states
from tests.worker_service.fake_llm_service import Context, FakeLlmService, Script
from tests.worker_service.in_process import Worker, refuse_with, working
from tests.worker_service.waiting import eventually

BREAK_OFF = refuse_with(grpc.StatusCode.UNAVAILABLE, "GENERATION_INTERRUPTED", engine_started=True)
LONG = " ".join(["long"] * 40)
"""An answer to it goes on for long enough."""


async def ask_suspects(engine: AsyncEngine, *questions: str, by: str = "interruptions") -> None:
    for question in questions:
        await ask(engine, question)
    async with engine.begin() as connection:
        await connection.execute(
            text(f"""
                UPDATE answers SET {by} = :times, due_at = 'infinity'
                WHERE id IN (SELECT answer_id FROM questions WHERE text = ANY(:questions))
            """),
            {"times": suspects.SUSPECT_FROM, "questions": list(questions)},
        )


async def try_them(worker: Worker) -> None:
    worker.slots.start_trials()
    await eventually(lambda: worker.slots.free == 8 and not worker.dispatcher.held, "the trials are over")


def breaks(how: Callable[[str], bool]) -> Script:
    async def script(question: str, context: Context) -> None:
        if how(question):
            await BREAK_OFF(question, context)

    return script


@pytest.mark.parametrize("by", ["interruptions", "losses"])
async def test_suspects_are_tried_one_at_a_time_while_nothing_is_known_of_the_first(
    worker: Worker, llm: FakeLlmService, by: str
) -> None:
    await ask_suspects(worker.engine, "suspect 1", "suspect 2", "suspect 3", by=by)
    llm.pause_before_last = asyncio.Event()
    worker.slots.start_trials()
    await eventually(lambda: llm.running == 1, "a control question is asked")
    assert llm.asked["Say hello."] == 1
    llm.pause_before_last.set()
    llm.flowing.clear()
    llm.flowing.set()
    await eventually(lambda: worker.slots.free == 8, "all are answered")

    assert await states(worker.engine) == {"completed": 3}
    assert llm.most_running <= 2
    assert llm.asked.total() == 3 + llm.asked["Say hello."]


async def test_twice_as_many_suspects_are_tried_after_each_success(worker: Worker, llm: FakeLlmService) -> None:
    await ask_suspects(worker.engine, *(f"suspect {number}" for number in range(24)))
    await try_them(worker)

    assert await states(worker.engine) == {"completed": 24}
    assert llm.asked["Say hello."] <= 7, "1, 2, 4, 8, 8 and 1 at once, and a look for more"
    assert llm.most_running > 1


async def test_a_suspect_is_not_even_tried_while_the_engine_breaks_off_everything(
    worker: Worker, llm: FakeLlmService
) -> None:
    await ask_suspects(worker.engine, "suspect")
    llm.after = BREAK_OFF
    await try_them(worker)

    row = (await answers(worker.engine))["suspect"]
    assert llm.asked["suspect"] == 0
    assert (row.state, row.attempt, row.interruptions) == ("queued", 0, suspects.SUSPECT_FROM)


async def test_a_suspect_is_blamed_where_the_engine_answers_others_and_ends_as_poison(
    worker: Worker, llm: FakeLlmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_service.answering.runner._TOGETHER_SECONDS", 0.0)
    await ask_suspects(worker.engine, "suspect")
    llm.after = breaks(lambda question: question == "suspect")
    await try_them(worker)
    row = (await answers(worker.engine))["suspect"]
    assert (row.state, row.waits, row.interruptions) == ("queued", 0, suspects.SUSPECT_FROM + 1)

    await try_them(worker)
    row = (await answers(worker.engine))["suspect"]
    assert (row.state, row.error_reason) == ("failed", "poison")


async def test_of_several_suspects_that_broke_together_none_is_blamed(worker: Worker, llm: FakeLlmService) -> None:
    await ask_suspects(worker.engine, "fine", "a", "b", "c")
    together = asyncio.Event()

    async def break_together(question: str, context: Context) -> None:
        if question in ("a", "b"):
            if llm.asked["a"] and llm.asked["b"]:
                together.set()
            await together.wait()
            await BREAK_OFF(question, context)

    llm.after = break_together
    await try_them(worker)

    rows = await answers(worker.engine)
    assert rows["fine"].state == "completed"
    assert [rows[name].interruptions for name in ("a", "b", "c")] == [suspects.SUSPECT_FROM] * 3
    assert [rows[name].attempt for name in ("a", "b", "c")] == [1, 1, 0]


async def test_while_a_suspect_is_tried_nothing_else_is_claimed(worker: Worker, llm: FakeLlmService) -> None:
    await ask_suspects(worker.engine, "suspect")
    llm.flowing.clear()
    worker.slots.start_trials()
    await eventually(lambda: llm.asked["Say hello."] == 1, "a control question is asked")
    llm.flowing.set()
    await eventually(lambda: llm.asked["suspect"] == 1, "the suspect is tried")
    await ask(worker.engine, "innocent")
    worker.slots.start(1)
    await eventually(lambda: llm.asked["innocent"] == 1, "it is claimed afterwards")


async def test_who_goes_on_for_long_enough_is_acquitted(worker: Worker, llm: FakeLlmService) -> None:
    await ask_suspects(worker.engine, LONG)
    llm.pause_before_last = asyncio.Event()
    worker.slots.start_trials()
    await eventually(lambda: llm.asked["Say hello."] == 1, "a control question is asked")
    llm.pause_before_last.set()
    llm.pause_before_last = asyncio.Event()

    async def acquitted() -> bool:
        row = (await answers(worker.engine))[LONG]
        return (row.state, row.interruptions, row.trial_until) == ("in_progress", 0, None)

    await eventually(acquitted, "it is acquitted while it is being written")
    llm.pause_before_last.set()
    await eventually(lambda: worker.slots.free == 8, "it is answered")


async def test_who_went_on_for_long_enough_is_not_blamed_and_soon_due(worker: Worker, llm: FakeLlmService) -> None:
    llm.pause_before_last = asyncio.Event()
    await ask(worker.engine, LONG)
    claim = await worker.claim()
    answering = asyncio.create_task(worker.runner.answer(claim))
    await asyncio.wait_for(worker.runner.until_settled(30), 30)
    llm.fail_at_the_end = BREAK_OFF
    llm.pause_before_last.set()
    await asyncio.wait_for(answering, 10)

    row = (await answers(worker.engine))[LONG]
    assert (row.state, row.interruptions, row.losses) == ("queued", 0, 0)


async def test_one_worker_at_a_time_tries_suspects(engine: AsyncEngine, worker: Worker, llm: FakeLlmService) -> None:
    await ask_suspects(engine, "suspect 1", "suspect 2")
    first = await worker.dispatcher.suspects(1)
    async with working(engine, llm.address, worker.redis) as other:
        assert await other.dispatcher.suspects(1) == []
        assert await claims.acquit(engine, first[0])
        assert len(await other.dispatcher.suspects(1)) == 1
