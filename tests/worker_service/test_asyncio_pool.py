"""The pool under Celery's own worker, with an in-memory broker, and by itself."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, current_task, signals
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from worker_service.waking.asyncio_pool import AsyncioPool, await_

SECONDS = 20


app = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.update(task_acks_late=True, worker_redirect_stdouts=False)

everybody = asyncio.Barrier(300)
endless_runs, endless_ended, stubborn_ended = threading.Event(), threading.Event(), threading.Event()


async def fail() -> None:
    raise LookupError("no such thing")


@app.task
def meet(number: int) -> int:
    await_(everybody.wait())
    assert current_task.request.args == [number]
    return threading.get_ident()


@app.task
def who_am_i() -> tuple[str | None, str | None]:
    before = current_task.request.id
    await_(asyncio.sleep(0.01))
    return before, current_task.request.id


@app.task
def handle_failure() -> str:
    try:
        await_(fail())
    except LookupError as error:
        return str(error)
    return "nothing was raised"


@app.task
def let_failure_through() -> None:
    await_(fail())


@app.task(soft_time_limit=1)
def clean_up() -> str:
    try:
        await_(asyncio.Event().wait())
    except SoftTimeLimitExceeded:
        await_(asyncio.sleep(0.01))
        return "cleaned up"
    return "not limited"


@app.task(soft_time_limit=1, time_limit=2)
def stubborn() -> None:
    try:
        try:
            await_(asyncio.Event().wait())
        except SoftTimeLimitExceeded:
            await_(asyncio.Event().wait())
    finally:
        stubborn_ended.set()


@app.task
def endless() -> None:
    endless_runs.set()
    try:
        await_(asyncio.Event().wait())
    finally:
        endless_ended.set()


@pytest.fixture(scope="module")
def _worker() -> Iterator[None]:
    pool: Any = AsyncioPool  # which the stub would have named
    # Celery sets up the log of the whole process, and nothing would be heard of warnings in later tests.
    signals.setup_logging.connect(_leave_logging_alone)
    with start_worker(app, concurrency=300, pool=pool, perform_ping_check=False, shutdown_timeout=SECONDS):
        yield
    signals.setup_logging.disconnect(_leave_logging_alone)


def _leave_logging_alone(**_: object) -> None:
    """Celery sets it up only if nobody listens to this signal."""


@pytest.fixture
def pool() -> Iterator[AsyncioPool]:
    """A started pool of two slots, without a worker."""
    pool = AsyncioPool(limit=2, app=app)
    pool.start()
    yield pool
    pool.terminate()


class Outcome:
    """Gathers what a pool tells Celery about a job."""

    def __init__(self) -> None:
        self.accepted = threading.Event()
        self.ended = threading.Event()
        self.result: Any = None
        self.failure: Any = None
        self.limits: list[tuple[bool, float]] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            "accept_callback": lambda _pid, _when: self.accepted.set(),
            "callback": self._succeed,
            "error_callback": self._fail,
            "timeout_callback": self._time_out,
        }

    def _succeed(self, result: object) -> None:
        self.result = result
        self.ended.set()

    def _fail(self, failure: object) -> None:
        self.failure = failure
        self.ended.set()

    def _time_out(self, soft: bool, seconds: float) -> None:
        self.limits.append((soft, seconds))
        if not soft:
            self.ended.set()


def result_of(result: Any) -> Any:
    return result.get(SECONDS, disable_sync_subtasks=False)


@pytest.mark.usefixtures("_worker")
def test_hundreds_of_tasks_wait_at_once_on_one_thread() -> None:
    results = [meet.delay(number) for number in range(300)]

    assert len({result_of(result) for result in results}) == 1


@pytest.mark.usefixtures("_worker")
def test_each_task_keeps_its_own_request_and_signals_are_sent() -> None:
    ended = []

    def note_end(task_id: str, **_: object) -> None:
        ended.append(task_id)

    signals.task_postrun.connect(note_end)
    try:
        results = [who_am_i.delay() for _ in range(10)]
        for result in results:
            assert result_of(result) == [result.id, result.id]
    finally:
        signals.task_postrun.disconnect(note_end)
    assert sorted(ended) == sorted(result.id for result in results)


@pytest.mark.usefixtures("_worker")
def test_what_was_awaited_raises_inside_the_task() -> None:
    assert result_of(handle_failure.delay()) == "no such thing"
    with pytest.raises(LookupError, match="no such thing"):
        result_of(let_failure_through.delay())


@pytest.mark.usefixtures("_worker")
def test_a_soft_limit_is_raised_inside_the_task_which_goes_on() -> None:
    assert result_of(clean_up.delay()) == "cleaned up"


@pytest.mark.usefixtures("_worker")
def test_a_hard_limit_ends_a_task_that_ignores_the_soft_one() -> None:
    with pytest.raises(TimeLimitExceeded):
        result_of(stubborn.delay())
    assert stubborn_ended.wait(SECONDS)


@pytest.mark.usefixtures("_worker")
def test_revoke_terminates_a_running_task() -> None:
    result = endless.delay()
    assert endless_runs.wait(SECONDS)

    app.control.revoke(result.id, terminate=True)

    with pytest.raises(TaskRevokedError):
        result_of(result)
    assert endless_ended.wait(SECONDS)


def test_no_more_tasks_than_slots_run_at_once(pool: AsyncioPool) -> None:
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await_(asyncio.sleep(0.01))
        running -= 1

    outcomes = [Outcome() for _ in range(20)]
    for outcome in outcomes:
        pool.apply_async(work, **outcome.callbacks())
    for outcome in outcomes:
        assert outcome.ended.wait(SECONDS)
    assert most == 2


def test_a_job_that_is_terminated_while_it_waits_for_a_slot_is_accepted_and_not_run(pool: AsyncioPool) -> None:
    gate, ran = threading.Event(), threading.Event()
    holders = [Outcome(), Outcome()]
    for holder in holders:
        pool.apply_async(lambda: await_(asyncio.to_thread(gate.wait)), **holder.callbacks())
        assert holder.accepted.wait(SECONDS)
    waiting = Outcome()
    job = pool.on_apply(ran.set, **waiting.callbacks())

    job.terminate()
    gate.set()

    assert waiting.accepted.wait(SECONDS)
    assert not ran.is_set()


def test_a_warm_stop_waits_for_what_runs(pool: AsyncioPool) -> None:
    outcome = Outcome()
    gate = threading.Event()

    def work() -> str:
        await_(asyncio.to_thread(gate.wait))
        return "finished"

    pool.apply_async(work, **outcome.callbacks())
    assert outcome.accepted.wait(SECONDS)
    threading.Timer(0.1, gate.set).start()
    pool.close()
    pool.stop()

    assert outcome.result == "finished"


def test_a_cold_stop_cancels_what_runs(pool: AsyncioPool) -> None:
    outcome, ended = Outcome(), threading.Event()

    def work() -> None:
        try:
            await_(asyncio.Event().wait())
        finally:
            ended.set()

    pool.apply_async(work, **outcome.callbacks())
    assert outcome.accepted.wait(SECONDS)
    pool.terminate()

    assert ended.is_set()
    assert outcome.result is None


def test_a_task_and_what_it_awaits_share_a_context(pool: AsyncioPool) -> None:
    trace = contextvars.ContextVar("trace", default="none")
    outcome = Outcome()

    async def read() -> str:
        return trace.get()

    def work() -> str:
        trace.set("of this task")
        return await_(read())

    pool.apply_async(work, **outcome.callbacks())
    assert outcome.ended.wait(SECONDS)

    assert outcome.result == "of this task"


def test_the_loop_is_free_for_other_work_while_tasks_wait(pool: AsyncioPool) -> None:
    outcome = Outcome()
    pool.apply_async(lambda: await_(asyncio.Event().wait()), **outcome.callbacks())
    assert outcome.accepted.wait(SECONDS)

    async def now() -> float:
        return time.monotonic()

    assert pool.run(now()).result(SECONDS) <= time.monotonic()


def test_awaiting_outside_a_task_is_refused() -> None:
    waiting = asyncio.sleep(0)
    try:
        with pytest.raises(RuntimeError, match="only inside a task"):
            await_(waiting)
    finally:
        waiting.close()
