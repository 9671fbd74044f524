"""Celery's consumer, less what a worker that takes hints does not need, and quiet after a lost connection."""

from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer


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
