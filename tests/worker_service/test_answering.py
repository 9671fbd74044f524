"""From a claim to its outcome, in this process, with a real PostgreSQL and a stand-in for llm_service."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.correlation import RequestIdFilter, current_request_id
from foundation.settings import GenerationSettings
from questions import claims, worker_leases
from questions.claims import Claim, GenerationResult
from tests.worker_service.asking import answers, ask
from tests.worker_service.fake_llm_service import FakeLlmService, answer_to
from tests.worker_service.in_process import Worker, refuse_with
from tests.worker_service.waiting import eventually
from worker_service.claiming.engine_gate import CLOSES_AFTER


async def test_an_answer_is_written_with_its_usage(worker: Worker) -> None:
    row = await worker.answer("What is the capital of France?")

    assert row.state == "completed"
    assert row.text == answer_to("What is the capital of France?")
    assert (row.finish_reason, row.prompt_tokens, row.completion_tokens) == ("stop", 6, 8)
    assert row.cached_prompt_tokens is None
    assert (row.attempt, row.waits, row.interruptions, row.losses) == (1, 0, 0, 0)
    assert row.reusable


async def test_logs_and_llm_service_are_told_the_request_by_which_a_question_came(
    worker: Worker, llm: FakeLlmService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(RequestIdFilter())
    llm.before = refuse_with(grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")
    await ask(worker.engine, "question", request_id="mine-1")
    claim = await worker.claim()
    await worker.runner.answer(claim)

    assert [spec.request_id for spec in llm.specs] == [f"mine-1:answer-{claim.answer_id}-1"]
    (line,) = [record for record in caplog.records if record.name == "worker_service.answering.runner"]
    assert line.__dict__["request"] == " request mine-1"
    assert current_request_id() is None


async def test_the_model_gets_instructions_question_and_limits(worker: Worker, llm: FakeLlmService) -> None:
    await worker.answer("  Что такое \N{WHITE SMILING FACE}?\r\n")

    spec = llm.specs[-1]
    assert [message.content for message in spec.messages] == [
        GenerationSettings().system_prompt,
        "Что такое \N{WHITE SMILING FACE}?",
    ]
    assert spec.max_output_tokens == 512
    assert spec.time_limit.seconds == 300


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_UNAVAILABLE"),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_GENERATIONS"),
        (grpc.StatusCode.PERMISSION_DENIED, "MODEL_SERVER_DENIED"),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ],
)
async def test_what_the_engine_did_not_accept_waits_and_that_is_no_attempt(
    worker: Worker, llm: FakeLlmService, code: grpc.StatusCode, reason: str
) -> None:
    llm.before = refuse_with(code, reason)

    row = await worker.answer("question")

    assert row.state == "queued"
    assert row.due_at is not None
    assert (row.waits, row.interruptions, row.losses) == (1, 0, 0)
    assert row.holder is None


async def test_what_breaks_off_after_the_engine_accepted_is_an_attempt(worker: Worker, llm: FakeLlmService) -> None:
    llm.after = refuse_with(grpc.StatusCode.UNAVAILABLE, "GENERATION_INTERRUPTED", engine_started=True)

    row = await worker.answer("question")

    assert row.state == "queued"
    assert row.due_at is not None
    assert (row.waits, row.interruptions) == (0, 1)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG", "context_too_long"),
        (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_REFUSED", "request_refused"),
    ],
)
async def test_what_can_never_succeed_fails_at_once(
    worker: Worker, llm: FakeLlmService, code: grpc.StatusCode, reason: str, expected: str
) -> None:
    llm.before = refuse_with(code, reason)

    row = await worker.answer("question")

    assert (row.state, row.error_reason) == ("failed", expected)


async def test_a_deadline_after_some_text_makes_an_incomplete_answer(worker: Worker, llm: FakeLlmService) -> None:
    llm.after = refuse_with(grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT", engine_started=True)

    row = await worker.answer("question")

    assert (row.state, row.finish_reason, row.text) == ("incomplete", "time_limit", "Answer")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_UNAVAILABLE"),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (grpc.StatusCode.PERMISSION_DENIED, "MODEL_SERVER_DENIED"),
    ],
)
async def test_an_outage_closes_the_gate_and_costs_no_question_an_attempt(
    worker: Worker, llm: FakeLlmService, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode, reason: str
) -> None:
    llm.before = refuse_with(code, reason)
    for number in range(20):
        await ask(worker.engine, f"question {number}")

    for _ in range(20):
        worker.slots.start(8)
        await eventually(lambda: worker.slots.free == 8, "the slots are done")

    rows = (await answers(worker.engine)).values()
    assert sum(row.waits for row in rows) < CLOSES_AFTER + 8
    assert {row.state for row in rows} == {"queued"}
    assert {row.interruptions for row in rows} == {0}
    assert len([record for record in caplog.records if record.name == "worker_service.claiming.engine_gate"]) == 1


@pytest.mark.parametrize("by", ["token", "answer", "all"])
async def test_stopping_ends_the_call_and_writes_nothing(worker: Worker, llm: FakeLlmService, by: str) -> None:
    llm.flowing.clear()
    await ask(worker.engine, "question")
    claim = await worker.claim()
    answering = asyncio.create_task(worker.runner.answer(claim))
    await eventually(lambda: llm.running == 1, "the question is being answered")

    match by:
        case "token":
            worker.runner.stop(frozenset({claim.token}))
        case "answer":
            worker.runner.stop_answer(claim.answer_id)
        case _:
            worker.runner.stop_all()

    await asyncio.wait_for(answering, 10)  # not cancelled: its slot goes on
    await eventually(lambda: llm.aborted["question"] == 1, "the call is ended")
    row = (await answers(worker.engine))["question"]
    assert (row.state, row.token, row.text) == ("in_progress", claim.token, None)


async def test_stopping_another_claim_changes_nothing(worker: Worker, llm: FakeLlmService) -> None:
    llm.flowing.clear()
    await ask(worker.engine, "question")
    claim = await worker.claim()
    answering = asyncio.create_task(worker.runner.answer(claim))
    await eventually(lambda: llm.running == 1, "the question is being answered")

    worker.runner.stop(frozenset({claim.token + 1}))
    worker.runner.stop_answer(claim.answer_id + 1)
    llm.flowing.set()
    await asyncio.wait_for(answering, 10)

    assert (await answers(worker.engine))["question"].state == "completed"


async def test_a_final_write_is_repeated_until_postgresql_takes_it(
    worker: Worker, llm: FakeLlmService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish, failures = claims.finish, 3

    async def fail_at_first(engine: AsyncEngine, claim: Claim, result: GenerationResult, reuse_seconds: float) -> bool:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OperationalError("UPDATE", {}, ConnectionResetError())
        return await finish(engine, claim, result, reuse_seconds)

    monkeypatch.setattr(claims, "finish", fail_at_first)
    row = await worker.answer("question")

    assert (row.state, row.text) == ("completed", answer_to("question"))
    assert llm.asked["question"] == 1
    messages = [record.getMessage() for record in caplog.records if record.name == "foundation.reachability"]
    assert len(messages) == 2, messages


async def test_a_commit_whose_outcome_is_never_learnt_is_written_once(
    worker: Worker, llm: FakeLlmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, results = claims.finish, []

    async def lose_the_first_reply(
        engine: AsyncEngine, claim: Claim, result: GenerationResult, reuse_seconds: float
    ) -> bool:
        results.append(await finish(engine, claim, result, reuse_seconds))
        if len(results) == 1:
            raise OperationalError("COMMIT", {}, ConnectionResetError())
        return results[-1]

    monkeypatch.setattr(claims, "finish", lose_the_first_reply)
    row = await worker.answer("question")

    assert results == [True, False]
    assert (row.state, row.attempt) == ("completed", 1)
    assert llm.asked["question"] == 1


async def test_repeating_a_write_ends_with_the_lease(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, llm: FakeLlmService
) -> None:
    tried = asyncio.Event()

    async def fail(*_: object) -> bool:
        tried.set()
        raise OperationalError("UPDATE", {}, ConnectionResetError())

    monkeypatch.setattr(claims, "finish", fail)
    await ask(worker.engine, "question")
    answering = asyncio.create_task(worker.runner.answer(await worker.claim()))
    await asyncio.wait_for(tried.wait(), 10)

    worker.runner.stop_all()

    await asyncio.wait_for(answering, 10)


async def test_no_log_line_quotes_a_question_or_an_answer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class RowRefusedError(Exception):
        sqlstate = "23514"

    async def refuse_row(_engine: AsyncEngine, _claim: Claim, result: GenerationResult, _reuse_seconds: float) -> bool:
        cause = RowRefusedError(f"DETAIL: Failing row contains ({result.text})")
        raise DBAPIError(f"UPDATE {result.text}", {"text": result.text}, cause)

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(claims, "finish", refuse_row)
    row = await worker.answer("a secret question")

    assert row.state == "failed"
    assert "RowRefusedError 23514" in caplog.text
    assert "secret" not in caplog.text


async def test_what_postgresql_gave_and_nobody_here_got_is_handed_back(worker: Worker, llm: FakeLlmService) -> None:
    """The reply to a claim is lost after its commit: without the lease's heartbeat nobody would answer it."""
    llm.flowing.clear()
    await ask(worker.engine, "got")
    got = await worker.claim()
    await ask(worker.engine, "lost")
    worker_id = worker.lease.worker_id
    assert worker_id is not None
    (lost,) = await claims.claim(worker.engine, worker_id, 1)

    owned = await worker_leases.renew_lease(worker.engine, worker_id, 3_600)
    assert owned == frozenset({got.token, lost.token})
    worker.slots.lease_renewed(worker.dispatcher.held, owned)

    async def handed_back() -> bool:
        row = (await answers(worker.engine))["lost"]
        return bool(row.state == "queued" and row.due_at is None and row.losses == 0)

    await eventually(handed_back, "the stray is queued again")
    assert (await answers(worker.engine))["got"].token == got.token
    assert (await answers(worker.engine))["got"].state == "in_progress"


async def test_one_statement_claims_for_all_slots_that_wait(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, limits = claims.claim, []

    async def count(engine: AsyncEngine, worker_id: int, limit: int, **options: Any) -> list[Claim]:
        limits.append(limit)
        return await claim(engine, worker_id, limit, **options)

    monkeypatch.setattr(claims, "claim", count)
    for number in range(30):
        await ask(worker.engine, f"question {number}")

    got = await asyncio.gather(*(worker.dispatcher.next() for _ in range(40)))

    assert len({claim.token for claim in got if claim}) == 30
    assert got.count(None) == 10
    assert len(limits) <= 2
    assert worker.dispatcher.held == {claim.token for claim in got if claim}


async def test_slots_that_have_answered_look_for_more_together(
    worker: Worker, llm: FakeLlmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, limits = claims.claim, []

    async def count(engine: AsyncEngine, worker_id: int, limit: int, **options: Any) -> list[Claim]:
        limits.append(limit)
        return await claim(engine, worker_id, limit, **options)

    monkeypatch.setattr(claims, "claim", count)
    monkeypatch.setattr("worker_service.claiming.dispatcher._PATIENCE_SECONDS", 3_600.0)
    for number in range(5):
        await ask(worker.engine, f"question {number}")
    worker.slots.start(8)
    await eventually(lambda: worker.slots.free == 3 and not worker.dispatcher.held, "five are answered, and wait")
    assert limits == [8]

    await ask(worker.engine, "question 5")
    worker.slots.start(1)
    await eventually(lambda: llm.asked.total() == 6 and not worker.dispatcher.held, "one has answered, and waits")
    assert limits == [8, 6]
    assert worker.slots.free == 7

    worker.slots.start(0)
    await eventually(lambda: worker.slots.free == 8, "nothing more is due")


async def test_while_more_is_due_slots_do_not_wait_for_one_another(
    worker: Worker, llm: FakeLlmService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_service.claiming.dispatcher._PATIENCE_SECONDS", 3_600.0)
    for number in range(20):
        await ask(worker.engine, f"question {number}")
    worker.slots.start(3)

    await eventually(lambda: llm.asked.total() == 20, "all are answered")


async def test_a_hint_waits_while_no_slot_is_free(worker: Worker, llm: FakeLlmService) -> None:
    llm.flowing.clear()
    for number in range(9):
        await ask(worker.engine, f"question {number}")
    await worker.slots.work(8)
    await eventually(lambda: llm.running == 8, "all slots are busy")

    hint = asyncio.create_task(worker.slots.work(1))
    await asyncio.sleep(0)
    assert not hint.done()
    llm.flowing.set()

    await asyncio.wait_for(hint, 10)
    await eventually(lambda: llm.asked.total() == 9, "the ninth is asked")


async def test_a_claim_whose_slot_has_gone_is_not_held(worker: Worker) -> None:
    await ask(worker.engine, "question")
    waiting = asyncio.create_task(worker.dispatcher.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})

    async def tried() -> bool:
        return bool((await answers(worker.engine))["question"].attempt == 1)

    await eventually(tried, "the claim is made all the same")
    await eventually(lambda: not worker.dispatcher.held, "it is given up")
