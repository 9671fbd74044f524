"""The model server is killed and replaced while it writes: worker, llm_service and model servers are real."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from models.identity import model_id
from questions.sweeping import sweep
from tests.fakes.model_server import expected_answer
from tests.llm_service.processes import model_process
from tests.worker_service.asking import answers, ask
from tests.worker_service.in_process import working
from tests.worker_service.waiting import eventually
from worker_service.claiming.engine_probe import ProbeLoop

BEGUN, WHOLE = 10, 30
QUESTIONS = [f"Question {number}? [[tokens={WHOLE} hold={BEGUN}]]" for number in range(8)]


@dataclass
class Outcome:
    """The answers' rows by question, and how many tokens the second model server wrote."""

    rows: dict[str, Any]
    written_by_second: int


async def replaced(
    engine: AsyncEngine, redis: MeshRedis, before: list[str], after: list[str], revision: str = ""
) -> Outcome:
    """Ask; kill the model server once all answers are begun; start another one in its place; wait for the answers."""
    server = "tests.fakes.model_server"
    async with AsyncExitStack() as stack, AsyncExitStack() as first:
        http = await stack.enter_async_context(ClientSession())
        url = await first.enter_async_context(model_process(server, "--port", "0", *before))
        settings = LlmServiceSettings(llm_port=0, model_url=url, model_revision=revision)
        llm_service = await stack.enter_async_context(LlmServer(settings, GenerationSettings()))
        worker = await stack.enter_async_context(working(engine, f"127.0.0.1:{llm_service.port}", redis))

        prober = asyncio.create_task(ProbeLoop(worker.probe, worker.gate, lambda: None).run())
        stack.callback(prober.cancel)

        async def written() -> int:
            """Tokens of answers, without those to control questions."""
            async with http.get(url.replace("/v1", "/fake/stats"), params={"questions": "1"}) as response:
                counted = (await response.json())["questions"]
                return sum(counts["tokens_written"] for question, counts in counted.items() if "Question" in question)

        async def all_are_begun() -> bool:
            return await written() == BEGUN * len(QUESTIONS)

        async def all_are_answered() -> bool:
            await http.post(url.replace("/v1", "/fake/release"))
            await sweep(engine, 1)
            worker.slots.start(len(QUESTIONS))
            return all(row.finished_at for row in (await answers(engine)).values())

        for question in QUESTIONS:
            await ask(engine, question)
        worker.slots.start(len(QUESTIONS))
        await eventually(all_are_begun, "all answers are begun")
        await first.aclose()
        await stack.enter_async_context(model_process(server, "--port", str(urlsplit(url).port), *after))
        await eventually(all_are_answered, "all answers are written")
        return Outcome(await answers(engine), await written())


@pytest.mark.parametrize(
    ("before", "after", "writer"),
    [
        (["--model=small"], ["--model=large"], "large"),
        (["--model=small", "--model=large"], ["--model=large", "--model=small"], "large"),
        (["--model=chat", "--root=/weights/small"], ["--model=chat", "--root=/weights/large"], "chat"),
    ],
    ids=["another model", "another default", "other weights behind one name"],
)
async def test_no_answer_is_begun_by_one_model_and_ended_by_another(
    engine: AsyncEngine, redis: MeshRedis, before: list[str], after: list[str], writer: str
) -> None:
    outcome = await replaced(engine, redis, before, after)

    assert {question: row.text for question, row in outcome.rows.items()} == {q: expected_answer(q) for q in QUESTIONS}
    assert {row.epoch for row in outcome.rows.values()} == {1}
    assert {model_id(row.written_by) for row in outcome.rows.values()} == {writer}
    assert len({row.written_by for row in outcome.rows.values()}) == 1
    assert outcome.written_by_second >= WHOLE * len(QUESTIONS)


@pytest.mark.parametrize(
    ("before", "after", "revision"),
    [
        (["--model=small"], ["--model=small"], ""),
        (["--model=chat", "--root=/weights/a"], ["--model=chat", "--root=/weights/a"], ""),
        (["--model=chat", "--root=/host-1/a"], ["--model=chat", "--root=/host-2/a"], "2026-11"),
    ],
    ids=["the same", "the same weights", "the same by what the operator says"],
)
async def test_the_same_model_goes_on_from_where_it_was(
    engine: AsyncEngine, redis: MeshRedis, before: list[str], after: list[str], revision: str
) -> None:
    outcome = await replaced(engine, redis, before, after, revision)

    assert {question: row.text for question, row in outcome.rows.items()} == {q: expected_answer(q) for q in QUESTIONS}
    assert {row.epoch for row in outcome.rows.values()} == {0}
    assert len({row.written_by for row in outcome.rows.values()}) == 1
    assert {row.reusable for row in outcome.rows.values()} == {True}
    assert outcome.written_by_second == (WHOLE - BEGUN) * len(QUESTIONS)
