"""A Celery pool that runs all its tasks on one asyncio event loop in one thread.

Celery's own tracer is synchronous. It runs unmodified in a greenlet for each task, and where the task calls
``await_``, the greenlet steps aside until the loop has awaited the value, as in SQLAlchemy's asyncio support. So one
thread holds a thousand tasks that wait, and time limits, termination and warm shutdown work as in Celery's own pools.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

import uvloop
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import SoftTimeLimitExceeded
from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]
from kombu.asynchronous import Hub

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Callback = Callable[..., object]

# How long a cold shutdown waits for tasks to take note that they were cancelled.
_TERMINATE_SECONDS = 5.0


class _TaskGreenlet(greenlet):  # type: ignore[misc] # greenlet has no type information
    """Runs a task's synchronous code beside the coroutine that made it, in the same context."""

    def __init__(self, run: Callable[[], object]) -> None:
        driver = getcurrent()
        super().__init__(run, driver)
        self.gr_context = driver.gr_context


def await_(awaitable: Awaitable[_T]) -> _T:
    """Wait for the value inside a task, while the loop goes on. Raises RuntimeError outside a task of this pool."""
    current = getcurrent()
    if not isinstance(current, _TaskGreenlet):
        raise RuntimeError("await_() works only inside a task that AsyncioPool runs")  # noqa: TRY004 - not a wrong type
    assert current.parent is not None
    value: _T = current.parent.switch(awaitable)
    return value


class Job:
    """One task in the pool. The callbacks are those of Celery's request."""

    def __init__(
        self,
        pool: "AsyncioPool",
        job_id: int,
        target: Callable[[], object],
        *,
        accepted: _Callback,
        succeeded: _Callback,
        failed: _Callback,
        timed_out: _Callback,
        soft_limit: float | None,
        hard_limit: float | None,
    ) -> None:
        self.id = job_id
        self._pool = pool
        self._target = target
        self._accepted = accepted
        self._succeeded = succeeded
        self._failed = failed
        self._timed_out = timed_out
        self._soft_limit = soft_limit
        self._hard_limit = hard_limit
        self._task: asyncio.Task[None] | None = None
        self._terminated = False
        self._soft_limit_passed = False

    def terminate(self, _signal: object = None) -> None:
        """Stop the task, from any thread. One that waits for a slot is accepted in its turn, and not run."""
        self._pool.call(self.cancel)

    def cancel(self) -> None:
        """As ``terminate``, on the loop."""
        self._terminated = True
        if self._task is not None:
            self._task.cancel()

    async def run(self, slots: asyncio.Semaphore) -> None:
        """Run the task when a slot is free, and report to Celery what became of it."""
        async with slots:
            self._pool.report(self._accepted, self.id, time.monotonic())
            if self._terminated:
                return
            self._task = asyncio.current_task()
            limit = asyncio.timeout(self._hard_limit)
            try:
                async with limit:
                    result = await self._run_within_soft_limit()
            except asyncio.CancelledError:
                return  # Celery knows, because it asked for it.
            except BaseException as error:  # noqa: BLE001 - Celery decides what each means
                if limit.expired() and isinstance(error, TimeoutError):
                    self._pool.report(self._timed_out, False, self._hard_limit)
                else:
                    self._pool.report(self._failed, ExceptionInfo())
            else:
                self._pool.report(self._succeeded, result)

    async def _run_within_soft_limit(self) -> object:
        if not self._soft_limit:
            return await self._drive()
        timer = asyncio.get_running_loop().call_later(self._soft_limit, self._pass_soft_limit)
        try:
            return await self._drive()
        finally:
            timer.cancel()

    def _pass_soft_limit(self) -> None:
        assert self._task is not None
        self._soft_limit_passed = True
        self._pool.report(self._timed_out, True, self._soft_limit)
        self._task.cancel()

    async def _drive(self) -> object:
        task = _TaskGreenlet(self._target)
        value = task.switch()
        while not task.dead:
            try:
                value = await value
            except asyncio.CancelledError as error:
                value = task.throw(self._cause_of(error))
            except BaseException as error:  # noqa: BLE001 - whatever was raised, the task awaited it
                value = task.throw(error)
            else:
                value = task.switch(value)
        return value

    def _cause_of(self, cancelled: asyncio.CancelledError) -> BaseException:
        assert self._task is not None
        if self._soft_limit_passed:
            self._soft_limit_passed = False
            if self._task.uncancel() == 0:
                return SoftTimeLimitExceeded(self._soft_limit)
        return cancelled


class AsyncioPool(BasePool):
    """``limit`` tasks at a time; further ones wait for their turn."""

    body_can_be_buffer = True
    signal_safe = False  # stopping waits for tasks

    def on_start(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._last_id = 0
        self._hub: Hub | None = None
        self._reports: deque[tuple[_Callback, tuple[object, ...]]] = deque()
        self._idle = threading.Event()
        self._idle.set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, args=(started,), name="asyncio-pool", daemon=True)
        self._thread.start()
        started.wait()

    def register_with_event_loop(self, loop: Hub) -> None:
        self._hub = loop

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the pool's loop, from another thread, beside the tasks and without a slot."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, callback: Callable[[], object]) -> None:
        """Call a function on the pool's loop, from any thread or signal handler; not once the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def on_apply(  # type: ignore[override] # the stub says that nothing comes back
        self,
        target: Callable[..., object],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] = MappingProxyType({}),
        *,
        callback: _Callback | None = None,
        accept_callback: _Callback | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        timeout_callback: _Callback | None = None,
        error_callback: _Callback | None = None,
        **_: object,
    ) -> Job:
        self._last_id += 1
        job = Job(
            self,
            self._last_id,
            lambda: target(*args, **kwargs),
            accepted=accept_callback or _ignore,
            succeeded=callback or _ignore,
            failed=error_callback or _ignore,
            timed_out=timeout_callback or _ignore,
            soft_limit=soft_timeout,
            hard_limit=timeout,
        )
        self._jobs[job.id] = job
        self._idle.clear()
        self.call(lambda: self._spawn(job))
        return job

    def terminate_job(self, pid: int, signal: object = None) -> None:
        if job := self._jobs.get(pid):
            job.terminate(signal)

    def on_stop(self) -> None:
        self._wait_until_idle(None)
        self._end_loop()

    def on_terminate(self) -> None:
        for job in list(self._jobs.values()):
            job.terminate()
        self._wait_until_idle(time.monotonic() + _TERMINATE_SECONDS)
        self._end_loop()

    def report(self, callback: _Callback, *args: object) -> None:
        """Tell Celery about a job, in the thread of its consumer: requests and connections are not thread-safe."""
        self._reports.append((callback, args))
        if self._hub is None:
            self._deliver_reports()
        else:
            self._hub.call_soon(self._deliver_reports)

    def _deliver_reports(self) -> None:
        while True:
            try:
                callback, args = self._reports.popleft()
            except IndexError:
                return
            try:
                callback(*args)
            except Exception:
                logger.exception("Celery could not take note of a task's outcome")

    def _spawn(self, job: Job) -> None:
        task = self._loop.create_task(job.run(self._slots))
        task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        if not self._jobs:
            self._idle.set()

    def _wait_until_idle(self, deadline: float | None) -> None:
        while not self._idle.wait(0.1):
            self._deliver_reports()
            if self._hub is not None:
                self._hub.fire_timers()  # the broker's heartbeats
            if deadline is not None and time.monotonic() > deadline:
                break
        self._deliver_reports()

    def _end_loop(self) -> None:
        self.call(self._stopping.set)
        self._thread.join(_TERMINATE_SECONDS)

    def _run_loop(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(self.limit)
        self._stopping = asyncio.Event()
        started.set()
        await self._stopping.wait()


def _ignore(*_: object) -> None:
    pass
