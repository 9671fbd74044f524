"""Celery's pool of threads, one for each hint that waits for a free slot."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from celery.concurrency.thread import TaskPool
from kombu.asynchronous import Hub

logger = logging.getLogger(__name__)


class HintPool(TaskPool):
    """Tells Celery in the consumer's thread what became of a task.

    Celery's own pool does so in the thread that ran the task. There an acknowledgement would write to the broker's
    connection while the consumer reads and writes it, and change the sets of requests while the consumer walks them.
    """

    def register_with_event_loop(self, loop: Hub) -> None:
        self._hub = loop

    def on_apply(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[object], object] | None = None,
        accept_callback: Callable[[int, float], object] | None = None,
        **_: Any,
    ) -> Any:
        assert callback is not None
        assert accept_callback is not None
        accept_callback(os.getpid(), time.monotonic())
        return super().on_apply(
            target, args, kwargs, callback=lambda outcome: self._hub.call_soon(_tell_celery, callback, outcome)
        )


def _tell_celery(callback: Callable[[object], object], outcome: object) -> None:
    try:
        callback(outcome)
    except Exception:
        logger.exception("Celery could not take note of a task's outcome")
