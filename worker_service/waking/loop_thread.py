"""The event loop on which the worker answers, in a thread beside Celery's."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import uvloop

_T = TypeVar("_T")

_STOP_SECONDS: Final = 5.0


class LoopThread:
    """Runs its loop from ``with`` to the end of the block. Coroutines that are left then are cancelled."""

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="event-loop", daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stopping.set)
        self._thread.join(_STOP_SECONDS)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, callback: Callable[[], object]) -> None:
        """Call a function on the loop, from any thread or signal handler; not once the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        started.set()
        await self._stopping.wait()
