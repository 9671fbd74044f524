"""Celery's consumer, less what a worker that takes hints does not need, and quiet after a lost connection."""

from contextlib import suppress
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request


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


class HintConsumer(Consumer):
    """Consumes hints from the broker, and connects again for ever when it is lost."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type] # the stub does not see a class in it
        """The steps of Celery's consumer."""

        # With a quorum queue Celery would declare 28 queues for delayed messages; hints are never delayed.
        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def on_connection_error_after_connected(self, exc: Exception) -> Any:
        """Besides what Celery does, forget the messages of the lost connection.

        The broker delivers them again; acknowledging them would only log an error for each.
        """
        for request in tuple(state.reserved_requests):
            request.acknowledged = True
        return super().on_connection_error_after_connected(exc)
