"""A worker generates what was asked, by whatever settings it was asked, and says which model has written it."""

from dataclasses import replace
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from foundation.redis import MeshRedis
from foundation.settings import GenerationSettings
from live.answer_stream import ReadPosition, RunningUsage, TextAppend, append, open_text, read_texts
from models.identity import identity
from questions import worker_leases
from questions.states import FinishReason
from tests.worker_service.asking import answers, ask
from tests.worker_service.fake_llm_service import FakeLlmService, answer_to
from tests.worker_service.in_process import Worker, refuse_with

QUESTION = "What is the capital of France?"
ANSWER = answer_to(QUESTION)
OWN = GenerationSettings()
"""Those of the worker."""


async def answer(worker: Worker) -> Any:
    claim = await worker.claim()
    await worker.runner.answer(claim)
    worker.dispatcher.give_back(claim)
    return (await answers(worker.engine))[QUESTION]


async def break_off(
    worker: Worker, redis: MeshRedis, *, writer: str | None, finish: FinishReason | None = None
) -> None:
    """A first attempt writes two words, and then its worker gives the question back."""
    await ask(worker.engine, QUESTION)
    claim = await worker.claim()
    await open_text(redis, claim.answer_id, claim.token, claim.epoch, create=True)
    usage = RunningUsage(prompt_tokens=6, completion_tokens=2, pieces=2)
    assert await append(redis, [TextAppend(claim.answer_id, claim.token, 0, b"Answer to", usage, finish, writer)]) == [
        0
    ]
    worker.dispatcher.give_back(claim)
    assert worker.lease.worker_id is not None
    await worker_leases.hand_back_all_but(worker.engine, worker.lease.worker_id, ())


@pytest.mark.parametrize(
    "changed",
    [
        {"system_prompt": "Be brief."},
        {"system_prompt": ""},
        {"temperature": 0.5},
        {"max_output_tokens": 7},
        {"max_output_tokens": 100_000, "temperature": 2, "system_prompt": "Rhyme."},
    ],
)
async def test_what_was_asked_is_generated_whatever_the_workers_own_settings_are(
    worker: Worker, llm: FakeLlmService, changed: dict[str, Any]
) -> None:
    asked = OWN.model_copy(update=changed)
    await ask(worker.engine, QUESTION, settings=asked)

    row = await answer(worker)

    (spec,) = llm.specs
    assert [message.content for message in spec.messages] == [
        words for words in (asked.system_prompt, QUESTION) if words
    ]
    assert (spec.sampling.temperature, spec.max_output_tokens) == (asked.temperature, asked.max_output_tokens)
    assert (spec.model, spec.time_limit.seconds, spec.answer_prefix) == ("", 300, "")
    assert spec.request_id == f"answer-{row.id}-1"
    assert (row.written_by, row.reusable) == (identity("fake-model", ""), True)


async def test_a_question_of_the_former_release_is_generated_by_the_workers_settings_and_not_reused(
    worker: Worker, llm: FakeLlmService
) -> None:
    await ask(worker.engine, QUESTION)
    async with worker.engine.begin() as connection:
        await connection.execute(text("UPDATE answers SET request = NULL"))

    row = await answer(worker)

    (spec,) = llm.specs
    assert [message.content for message in spec.messages] == [OWN.system_prompt, QUESTION]
    assert (spec.sampling.temperature, spec.max_output_tokens) == (OWN.temperature, OWN.max_output_tokens)
    assert (row.text, row.written_by, row.reusable) == (ANSWER, identity("fake-model", ""), False)


async def test_a_request_that_names_a_model_gets_it(worker: Worker, llm: FakeLlmService) -> None:
    await ask(worker.engine, QUESTION)
    claim = await worker.claim()
    assert claim.request is not None
    named = b"\x12\x05large" + claim.request  # field 2
    await worker.runner.answer(replace(claim, request=named))
    worker.dispatcher.give_back(claim)
    assert llm.specs[0].model == "large"
    assert (await answers(worker.engine))[QUESTION].written_by == identity("large", "")


async def test_what_only_a_later_contract_knows_is_sent_on(worker: Worker, llm: FakeLlmService) -> None:
    """An older worker beside a newer api_service, in an upgrade."""
    await ask(worker.engine, QUESTION)
    claim = await worker.claim()
    assert claim.request is not None
    unknown = b"\xa2\x7d\x03new"  # field 2004, a string
    await worker.runner.answer(replace(claim, request=claim.request + unknown))
    worker.dispatcher.give_back(claim)
    assert unknown in llm.specs[0].SerializeToString()


@pytest.mark.parametrize("by", [("fake-model", ""), ("fake-model", "2")])
async def test_the_same_model_goes_on(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis, by: tuple[str, str]
) -> None:
    llm.model, llm.revision = by
    await break_off(worker, redis, writer=identity(*by))

    row = await answer(worker)

    assert [spec.answer_prefix for spec in llm.specs] == ["Answer to"]
    assert (row.text, row.epoch, row.written_by, row.reusable) == (ANSWER, 0, identity(*by), True)


@pytest.mark.parametrize("before", [("small", ""), ("fake-model", "1"), ("", "2"), ("fake-model@2", "")])
async def test_another_model_begins_anew_and_readers_are_told(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis, before: tuple[str, str]
) -> None:
    llm.revision = "2"
    await break_off(worker, redis, writer=identity(*before) or "@")

    row = await answer(worker)

    assert [spec.answer_prefix for spec in llm.specs] == ["Answer to", ""]
    assert llm.specs[1].max_output_tokens == OWN.max_output_tokens
    assert (row.text, row.epoch, row.written_by) == (ANSWER, 1, identity("fake-model", "2"))
    (reading,) = await read_texts(redis, [ReadPosition(row.id, 0, 9)])
    assert reading is not None
    assert (reading.epoch, reading.offset, reading.text.decode()) == (1, 0, ANSWER)


async def test_where_nobody_knows_who_began_the_answer_goes_on_and_is_not_reused(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    """As after a worker of the former release: its readers lose nothing, and nobody else gets it."""
    await break_off(worker, redis, writer=None)

    row = await answer(worker)

    assert [spec.answer_prefix for spec in llm.specs] == ["Answer to"]
    assert (row.text, row.epoch, row.written_by, row.reusable) == (ANSWER, 0, None, False)


async def test_the_writer_of_a_text_that_was_at_its_end_is_kept(worker: Worker, redis: MeshRedis) -> None:
    await break_off(worker, redis, writer="small@", finish=FinishReason.STOP)
    row = await answer(worker)
    assert (row.text, row.written_by, row.reusable) == ("Answer to", "small@", True)


async def test_the_writer_is_in_redis_with_the_first_text(
    worker: Worker, llm: FakeLlmService, redis: MeshRedis
) -> None:
    """However late the first text is: the empty answer is stored long before it, without one."""
    llm.after = refuse_with(grpc.StatusCode.UNAVAILABLE, "GENERATION_INTERRUPTED", engine_started=True)
    await ask(worker.engine, QUESTION)

    row = await answer(worker)

    assert row.state == "queued"
    opened = await open_text(redis, row.id, row.token + 1, 0, create=False)
    assert opened is not None
    assert (opened.text, opened.writer) == ("Answer", identity("fake-model", ""))


async def test_nothing_of_an_answer_without_a_model_is_reused(worker: Worker, llm: FakeLlmService) -> None:
    """An llm_service that does not say which model it is says nothing that could be compared."""
    llm.model = ""
    await ask(worker.engine, QUESTION)
    row = await answer(worker)
    assert (row.text, row.written_by, row.reusable) == (ANSWER, None, False)
