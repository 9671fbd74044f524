"""Celery's consumer, less what a worker that takes hints does not need, and quiet after a lost connection."""

import time
from contextlib import suppress
from typing import Any, Final

from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from celery.worker.state import maybe_shutdown

from foundation.broker_errors import explain
from foundation.reachability import Reachability


class HintRequest(Request):
    """A hint that has been taken."""

    def acknowledge(self) -> None:
        """Tell the broker that the hint has ended.

        Where the connection was lost and nobody has noticed yet, the broker delivers the hint again, which does no
        harm. Celery's own way logs that as critical.
        """
        if not self.acknowledged:
            self.acknowledged = True
            with suppress(*self._connection_errors):  # type: ignore[attr-defined] # not in the stubs
                self._message.ack()  # type: ignore[attr-defined] # nor this


_LONGEST_PAUSE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1


class HintConsumer(Consumer):
    """Consumes hints from the broker, and connects again for ever when it is lost.

    Celery logs each attempt, and connects again at once where the broker refuses the queue, a dozen times a second. The
    log gets one line when hints stop coming, with the reason, and one when they come again.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type] # the stub does not see a class in it
        """The steps of Celery's consumer."""

        # With a quorum queue Celery would declare 28 queues for delayed messages; hints are never delayed.
        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._broker = Reachability.of(
            "the broker", "workers wake by Redis, and look into PostgreSQL every 2 s", explain
        )
        self._failures = 0

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long that takes."""

        def note(error: Exception, _seconds: float) -> None:
            self._broker.failed(error)

        self.first_connection_attempt = False
        return conn.ensure_connection(note, None, callback=maybe_shutdown)

    def on_ready(self) -> None:
        """Hints come from now on."""
        self._failures = 0
        self._broker.succeeded()
        super().on_ready()

    def on_connection_error_after_connected(self, exc: Exception) -> Any:
        """Besides what Celery does, forget the messages of the lost connection, and pause where it is not the first.

        The broker delivers them again; acknowledging them would only log an error for each.
        """
        self._broker.failed(exc)
        for request in tuple(state.reserved_requests):
            request.acknowledged = True
        super().on_connection_error_after_connected(exc)
        self._pause()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """The broker refuses the user, the password or the virtual host."""
        self._broker.failed(exc)
        self._pause()

    def _pause(self) -> None:
        until = time.monotonic() + (min(2.0**self._failures, _LONGEST_PAUSE_SECONDS) if self._failures else 0)
        self._failures += 1
        while time.monotonic() < until:
            maybe_shutdown()
            time.sleep(_LOOK_SECONDS)
