"""Workers as processes: what signals, crashes, cancels and an absent Redis do to questions."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.settings import BrokerSettings, GenerationSettings
from live.hints import Hints, celery_app
from live.signals import publish_ended
from models.identity import identity
from questions.cancelling import cancel
from tests.servers import redis_at
from tests.worker_service.asking import answers, ask, states
from tests.worker_service.conftest import StartWorker
from tests.worker_service.fake_llm_service import FakeLlmService, answer_to
from tests.worker_service.waiting import eventually


async def ask_many(engine: AsyncEngine, count: int) -> list[str]:
    questions = [f"question {number}" for number in range(count)]
    places = asyncio.Semaphore(10)

    async def ask_one(question: str) -> None:
        async with places:
            await ask(engine, question)

    await asyncio.gather(*(ask_one(question) for question in questions))
    return questions


async def all_completed(engine: AsyncEngine, questions: list[str]) -> None:
    async def done() -> bool:
        return (await states(engine))["completed"] == len(questions)

    await eventually(done, "all questions are answered", seconds=60)
    rows = await answers(engine)
    assert {question: row.text for question, row in rows.items()} == {
        question: answer_to(question) for question in questions
    }


async def test_a_worker_of_other_settings_generates_what_was_asked(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    """As for a minute in each rolling change of settings."""
    worker = start_worker(
        ASKMESH_MAX_OUTPUT_TOKENS="4",
        ASKMESH_SYSTEM_PROMPT="Rhyme.",
        ASKMESH_TEMPERATURE="1",
        ASKMESH_MODEL_NAME="small",
    )
    await worker.ready()
    asked = GenerationSettings(system_prompt="Be brief.", temperature=0.5, max_output_tokens=100)

    await ask(engine, "why?", settings=asked)
    await all_completed(engine, ["why?"])

    (spec,) = llm.specs
    assert [message.content for message in spec.messages] == ["Be brief.", "why?"]
    assert (spec.sampling.temperature, spec.max_output_tokens) == (0.5, 100)
    row = (await answers(engine))["why?"]
    assert (spec.model, row.written_by) == ("small", identity("small", ""))


async def test_hints_wake_it_and_each_question_is_asked_once(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, valkey: Valkey
) -> None:
    worker = start_worker()
    await worker.ready()
    hints = Hints(celery_app("tests", BrokerSettings(broker_url=SecretStr(valkey.broker_url))))

    questions = await ask_many(engine, 100)
    hints.wake(300)  # more than there is work for
    await all_completed(engine, questions)

    hints.close()
    assert llm.asked.total() == 100
    assert {row.attempt for row in (await answers(engine)).values()} == {1}


async def test_without_any_hint_the_sweeper_finds_them(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    questions = await ask_many(engine, 20)

    worker = start_worker()
    await all_completed(engine, questions)

    worker.send(signal.SIGTERM)
    assert await worker.ended() == 0
    assert llm.asked.total() == 20


async def test_one_process_holds_512_questions_in_flight(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    questions = await ask_many(engine, 600)
    worker = start_worker(ASKMESH_LEASE_SECONDS="15")
    await eventually(lambda: llm.running == 512, "all slots are busy", seconds=60)
    assert (await states(engine)) == {"in_progress": 512, "queued": 88}
    assert psutil.Process(worker.pid).memory_info().rss < 200_000_000

    llm.flowing.set()
    await all_completed(engine, questions)
    assert llm.most_running == 512
    assert llm.asked.total() == 600


async def test_no_log_line_quotes_a_question_or_an_answer(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    worker = start_worker(ASKMESH_LOG_LEVEL="DEBUG")
    await worker.ready()
    await ask(engine, "a secret question")
    await all_completed(engine, ["a secret question"])
    worker.send(signal.SIGTERM)
    await worker.ended()

    assert "ready" in worker.log_text()
    assert "secret" not in worker.log_text()


async def test_sigterm_finishes_what_it_can_and_takes_nothing_new(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    worker = start_worker()
    await worker.ready()
    held = await ask_many(engine, 5)
    await eventually(lambda: llm.running == 5, "the questions are being answered")

    worker.send(signal.SIGTERM)
    await ask(engine, "too late")
    # Two rounds of its sweeper: a worker that still took questions would take this one.
    await wait_for_sweeps(engine, 2)
    assert llm.asked["too late"] == 0
    llm.flowing.set()

    assert await worker.ended() == 0
    rows = await answers(engine)
    assert {rows[question].state for question in held} == {"completed"}
    assert rows["too late"].state == "queued"


async def wait_for_sweeps(engine: AsyncEngine, rounds: int) -> None:
    """Wait until questions that expire one after another have been swept: the sweeper has made as many rounds."""
    for number in range(rounds):
        question = f"expiring {number}"
        await ask(engine, question, max_wait_seconds=0.001)
        async with engine.begin() as connection:
            # Not due, so that no slot takes it first.
            await connection.execute(
                text("""
                    UPDATE answers SET due_at = clock_timestamp() + interval '1 hour'
                    WHERE id IN (SELECT answer_id FROM questions WHERE text = :question)
                """),
                {"question": question},
            )

        async def swept(question: str = question) -> bool:
            return bool((await answers(engine))[question].state == "expired")

        await eventually(swept, "the sweeper has expired it")
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM questions WHERE text LIKE 'expiring%'"))


@pytest.mark.parametrize("how", ["grace time", "second SIGTERM", "SIGQUIT"])
async def test_what_it_cannot_finish_it_hands_back_at_once(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, how: str
) -> None:
    llm.flowing.clear()
    worker = start_worker(ASKMESH_DRAIN_SECONDS="0.5" if how == "grace time" else "600")
    await worker.ready()
    questions = await ask_many(engine, 5)
    await eventually(lambda: llm.running == 5, "the questions are being answered")

    worker.send(signal.SIGQUIT if how == "SIGQUIT" else signal.SIGTERM)
    if how == "second SIGTERM":
        await eventually(lambda: "stopping: 5 answers" in worker.log_text(), "it has noticed the first")
        worker.send(signal.SIGTERM)

    assert await worker.ended() == 0
    await eventually(lambda: llm.aborted.total() == 5, "the calls are ended")
    for row in (await answers(engine)).values():
        assert (row.state, row.due_at, row.losses, row.waits, row.interruptions) == ("queued", None, 0, 0, 0)
    async with engine.connect() as connection:
        alive = await connection.execute(text("SELECT count(*) FROM workers WHERE lease_until > clock_timestamp()"))
        assert alive.scalar_one() == 0

    llm.flowing.set()
    start_worker()
    await all_completed(engine, questions)


async def test_after_kill_9_another_worker_takes_over(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    victim = start_worker()
    await victim.ready()
    questions = await ask_many(engine, 5)
    await eventually(lambda: llm.running == 5, "the questions are being answered")

    victim.send(signal.SIGKILL)
    start_worker()
    await eventually(lambda: llm.asked.total() == 10, "another worker answers them", seconds=60)
    llm.flowing.set()
    await all_completed(engine, questions)

    assert {(row.attempt, row.losses) for row in (await answers(engine)).values()} == {(2, 1)}


async def test_a_worker_that_slept_past_its_lease_writes_nothing(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    sleeper = start_worker()
    await sleeper.ready()
    questions = await ask_many(engine, 5)
    await eventually(lambda: llm.running == 5, "the questions are being answered")
    sleeper.send(signal.SIGSTOP)

    other = start_worker()
    await eventually(lambda: llm.asked.total() == 10, "another worker answers them", seconds=60)
    llm.flowing.set()  # the sleeper's answers are in its sockets, whole
    await all_completed(engine, questions)
    final = await answers(engine)
    sleeper.send(signal.SIGCONT)
    await eventually(lambda: "the lease is lost: 5" in sleeper.log_text(), "the sleeper notices")
    await ask(engine, "later")
    other.send(signal.SIGTERM)
    await other.ended()
    await all_completed(engine, [*questions, "later"])  # by the sleeper, under a new lease

    after = await answers(engine)
    del after["later"]
    assert after == final
    assert {(row.attempt, row.losses) for row in after.values()} == {(2, 1)}


@pytest.mark.parametrize("with_redis", [True, False])
async def test_a_cancel_ends_the_call(
    engine: AsyncEngine,
    llm: FakeLlmService,
    start_worker: StartWorker,
    valkey: Valkey,
    tmp_path: Path,
    with_redis: bool,
) -> None:
    llm.flowing.clear()
    # Without Redis the heartbeat notices; with it, the heartbeat comes too late for this test.
    timing = {"ASKMESH_LEASE_SECONDS": "1000", "ASKMESH_HEARTBEAT_SECONDS": "400"}
    no_redis = {"ASKMESH_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}
    worker = start_worker(**(timing if with_redis else no_redis))
    await worker.ready()
    question_id = await ask(engine, "cancelled")
    await ask(engine, "wanted")
    await eventually(lambda: llm.running == 2, "the questions are being answered")

    answer_id = await cancel(engine, "tests", question_id)
    assert answer_id is not None
    if with_redis:
        async with redis_at(valkey.url()) as redis:
            await publish_ended(redis, [answer_id])

    await eventually(lambda: llm.aborted["cancelled"] == 1, "its call is ended")
    llm.flowing.set()
    await eventually(lambda: llm.running == 0, "the other is answered")

    async def other_completed() -> bool:
        return bool((await answers(engine))["wanted"].state == "completed")

    await eventually(other_completed, "the other is written")
    row = (await answers(engine))["cancelled"]
    assert (row.state, row.text) == ("cancelled", None)


async def test_a_question_that_expires_while_it_is_answered_ends_its_call(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    worker = start_worker()
    await worker.ready()
    await ask(engine, "impatient", max_wait_seconds=4)
    await eventually(lambda: llm.running == 1, "the question is being answered")

    await eventually(lambda: llm.aborted["impatient"] == 1, "its call is ended")

    async def cut() -> bool:
        row = (await answers(engine))["impatient"]
        return (row.state, row.finish_reason, row.text) == ("incomplete", "time_limit", "Answer")

    await eventually(cut, "it ends with the text that is there")


async def test_redis_may_vanish_and_come_back(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, own_valkey: Valkey
) -> None:
    worker = start_worker(
        ASKMESH_REDIS_URL=own_valkey.url(), ASKMESH_LEASE_SECONDS="1000", ASKMESH_HEARTBEAT_SECONDS="400"
    )
    await worker.ready()
    own_valkey.stop()
    await eventually(lambda: "Redis does not answer" in worker.log_text(), "it notices that Redis is away")
    questions = await ask_many(engine, 10)
    await all_completed(engine, questions)
    own_valkey.start()
    await eventually(lambda: "Redis answers again" in worker.log_text(), "it notices that Redis is back")

    llm.flowing.clear()
    question_id = await ask(engine, "cancelled")
    await eventually(lambda: llm.running == 1, "the question is being answered")
    answer_id = await cancel(engine, "tests", question_id)
    assert answer_id is not None

    async def ended() -> bool:
        # It says that Redis answers just before it subscribes.
        async with redis_at(own_valkey.url()) as redis:
            await publish_ended(redis, [answer_id])
        return llm.aborted["cancelled"] == 1

    await eventually(ended, "its call is ended")
    assert worker.log_text().count("Redis") == 2


async def test_an_outage_of_llm_service_fails_nothing(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    late = FakeLlmService()
    async with late.serve():
        address = late.address
    worker = start_worker(ASKMESH_LLM_TARGETS=address)
    await worker.ready()
    questions = await ask_many(engine, 50)

    async def several_probes() -> bool:
        return bool(sum(row.waits for row in (await answers(engine)).values()) > 8)

    await eventually(several_probes, "questions are tried in vain", seconds=60)
    async with late.serve(address):
        await all_completed(engine, questions)
    assert all(count == 1 for question, count in late.asked.items() if question != "Say hello.")
    assert {(row.interruptions, row.losses) for row in (await answers(engine)).values()} == {(0, 0)}
    assert worker.log_text().count("fail one after the other") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ASKMESH_LEASE_SECONDS": "6", "ASKMESH_HEARTBEAT_SECONDS": "5"}, "ASKMESH_LEASE_SECONDS"),
        ({"ASKMESH_LLM_TARGETS": "nowhere"}, "ASKMESH_LLM_TARGETS"),
        ({"ASKMESH_WORKER_SLOT": "5"}, "ASKMESH_WORKER_SLOT"),
    ],
)
def test_wrong_settings_are_one_clear_line(
    worker_settings: dict[str, str], changed: dict[str, str], message: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "worker_service"],
        env={**os.environ, **worker_settings, **changed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 2
    assert run.stderr.startswith("worker_service: ")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
