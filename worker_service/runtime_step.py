"""Ties the runtime's life to Celery's."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from celery import bootsteps
from celery.utils.threads import bound_open_broker_sockets  # type: ignore[attr-defined] # not in the stubs
from celery.worker import state
from kombu.common import ignore_errors

from foundation.background import log_defect
from worker_service.runtime import Runtime
from worker_service.waking.loop_thread import LoopThread
from worker_service.waking.tasks import add_tasks

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_EXIT_OK: Final = 0
_EXIT_DEFECT: Final = 1
# A broker that does not answer holds up a stopping worker no longer than this, a few times.
_BROKER_SECONDS: Final = 2.0
_CELERY_SECONDS: Final = 5.0


class RuntimeStep(bootsteps.StartStopStep):
    """Starts answering before Celery connects to the broker, and at a signal stops answering before it stops Celery.

    So the broker need not be there, and while the last answers are written its connection lives and hints are
    acknowledged. The first signal lets answers end in the grace time; a second one, or SIGQUIT, hands them back.
    """

    requires = ("celery.worker.components:Pool",)  # whose threads end when this has stopped

    def __init__(
        self, worker: Any, loop: LoopThread, open_runtime: Callable[[Callable[[], None]], Runtime], **options: Any
    ) -> None:
        super().__init__(worker, **options)
        self._loop = loop
        self._worker = worker
        self._open_runtime = open_runtime
        self._stopping: asyncio.Task[None] | None = None
        self._worker.ready_callback = self._note_consuming

    def start(self, _parent: object) -> None:
        """Called before Celery connects to the broker."""
        self._loop.run(self._open()).result()
        add_tasks(self._worker.app, self._runtime.slots, self._loop)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._note_signal)

    def stop(self, _parent: object) -> None:
        """Called when Celery stops, for whatever reason."""
        self._runtime.hurry()
        self._loop.run(self._runtime.close()).result()

    def terminate(self, parent: object) -> None:
        """Called instead of ``stop`` when Celery stops at once."""
        self.stop(parent)

    async def _open(self) -> None:
        # Here and not in the thread that waits for it: a part that breaks at once stops the runtime before that wakes.
        self._runtime = self._open_runtime(lambda: self._begin_to_stop(hurry=True, exit_status=_EXIT_DEFECT))
        self._runtime.start()

    def _note_consuming(self, _consumer: object) -> None:
        self._loop.call(self._runtime.consuming)

    def _note_signal(self, number: int, _frame: object) -> None:
        # The loop's thread goes on with it: in a signal handler no lock may be taken.
        self._loop.call(lambda: self._begin_to_stop(hurry=number == signal.SIGQUIT))

    def _begin_to_stop(self, *, hurry: bool, exit_status: int = _EXIT_OK) -> None:
        if hurry or self._stopping is not None:
            self._runtime.hurry()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop_in_order(exit_status))

    async def _stop_in_order(self, exit_status: int) -> None:
        self._call_in_consumer(self._stop_consuming)
        try:
            await self._runtime.close()
        except Exception as error:  # noqa: BLE001 - the process ends all the same; the lease runs out by itself
            log_defect("stopping", error)
            exit_status = _EXIT_DEFECT
        self._stop_celery(exit_status)
        # This loop ends when Celery has stopped. Where Celery waits for a broker that does not answer it never stops,
        # and nothing is left here that could be lost.
        await asyncio.sleep(_CELERY_SECONDS)
        os._exit(exit_status)

    def _stop_consuming(self) -> None:
        consumer = self._worker.consumer
        if consumer.connection and consumer.task_consumer:
            bound_open_broker_sockets(consumer.connection, _BROKER_SECONDS)
            ignore_errors(consumer, consumer.task_consumer.cancel)

    def _stop_celery(self, exit_status: int) -> None:
        state.should_stop = exit_status  # type: ignore[assignment] # None until then
        self._call_in_consumer(lambda: None)  # so that it looks

    def _call_in_consumer(self, callback: Callable[[], object]) -> None:
        if self._worker.hub is not None:
            self._worker.hub.call_soon(callback)
