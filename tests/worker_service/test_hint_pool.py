"""The pool in which hints wait, and the loop beside it on which they are done."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from celery import Celery
from kombu.asynchronous import Hub

from worker_service.waking.hint_pool import HintPool
from worker_service.waking.loop_thread import LoopThread

SECONDS = 20

app = Celery("tests", broker="memory://", set_as_current=False)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The loop of Celery's consumer, which the test turns itself."""
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pool(hub: Hub) -> Iterator[HintPool]:
    """A started pool of two threads."""
    pool = HintPool(limit=2, app=app)
    pool.start()
    pool.register_with_event_loop(hub)
    yield pool
    pool.stop()


class Request:
    """Notes what Celery is told of a task, and in which threads."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.outcome: Any = None

    def on_accepted(self, _pid: int, _when: float) -> None:
        self.told.append(("accepted", threading.get_ident()))

    def on_success(self, outcome: Any) -> None:
        self.told.append(("ended", threading.get_ident()))
        self.outcome = outcome

    @property
    def is_ended(self) -> bool:
        return len(self.told) == 2


def turn_until_ended(hub: Hub, *requests: Request) -> None:
    for _ in range(SECONDS):
        if all(request.is_ended for request in requests):
            return
        hub.run_once()  # waits for a second at most
    pytest.fail("Celery was not told that the tasks have ended")


def apply(pool: HintPool, request: Request, task: Any) -> None:
    pool.apply_async(task, accept_callback=request.on_accepted, callback=request.on_success)


def test_tasks_run_in_threads_and_celery_is_told_in_its_own(pool: HintPool, hub: Hub) -> None:
    both_run = threading.Barrier(2, timeout=SECONDS)
    requests = [Request(), Request()]

    def task() -> int:
        both_run.wait()
        return threading.get_ident()

    for request in requests:
        apply(pool, request, task)
    turn_until_ended(hub, *requests)

    me = threading.get_ident()
    assert [request.told for request in requests] == [[("accepted", me), ("ended", me)]] * 2
    assert len({me, *(request.outcome for request in requests)}) == 3


def test_the_consumer_goes_on_where_celery_cannot_take_note(
    pool: HintPool, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_outcome: Any) -> None:
        raise LookupError("no such request")

    pool.apply_async(str, accept_callback=Request().on_accepted, callback=broken)
    later = Request()
    apply(pool, later, str)
    turn_until_ended(hub, later)
    for _ in range(SECONDS):
        if caplog.records:
            break
        hub.run_once()

    assert "Celery could not take note" in caplog.text


def test_a_warm_stop_waits_for_what_runs(pool: HintPool) -> None:
    runs, ended, may_end = threading.Event(), threading.Event(), threading.Event()

    def task() -> None:
        runs.set()
        may_end.wait(SECONDS)
        ended.set()

    apply(pool, Request(), task)
    assert runs.wait(SECONDS)
    threading.Timer(0.1, may_end.set).start()
    pool.stop()

    assert ended.is_set()


def test_threads_run_coroutines_on_one_loop_until_it_ends() -> None:
    async def thread() -> int:
        return threading.get_ident()

    called = threading.Event()
    with LoopThread() as loop:
        assert loop.run(thread()).result(SECONDS) == loop.run(thread()).result(SECONDS) != threading.get_ident()
        loop.call(called.set)
        assert called.wait(SECONDS)
        waiting = loop.run(asyncio.sleep(3_600))
    with pytest.raises(CancelledError):
        waiting.result(SECONDS)
    called.clear()
    loop.call(called.set)
    assert not called.wait(0.1)
