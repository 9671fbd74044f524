"""Waking workers: a message says that there is work, never which.

A hint that is lost, doubled or late changes nothing, because workers claim rows and the sweeper sends hints again
while rows are due. So sending never holds up whoever asks, and a failure costs nothing but time.
"""

import asyncio
import math
import threading
import time

from celery import Celery
from kombu import Exchange, Queue

from foundation.broker_errors import explain
from foundation.broker_tls import split_tls
from foundation.reachability import Reachability
from foundation.settings import BrokerSettings

TASK = "worker_service.answer_due_questions"
"""Name of the task that a hint starts. Its argument: how many slots are to look for work."""

_QUEUE = "askmesh.hints"
# More hints than a fleet of workers has slots wake nobody.
_MOST_PENDING = 10_000
# A hint for more slots than one worker may have free would leave other workers asleep.
_SLOTS_A_HINT = 16
# A hint costs sender, broker and worker 3 to 4 ms of CPU together, whatever it asks for. So one speaks for all that was
# asked within this time.
_GATHERED_SECONDS = 0.05
# The same where a wake-up through Redis has gone before (live.wakeups), so that nobody waits for the hint.
_REMINDED_SECONDS = 0.5
_RETRY_SECONDS = 1.0
# A broker that takes no message for so long counts as away; a blocked RabbitMQ would otherwise hold the thread.
_CONFIRM_SECONDS = 5.0
# A connection that has been idle for so long is made anew: it may be dead without a word.
_IDLE_SECONDS = 5.0


def celery_app(name: str, settings: BrokerSettings) -> Celery:
    """Celery set up for hints: the one place that declares the queue, so that both ends agree on its type."""
    broker_url, tls = split_tls(settings.broker_url.get_secret_value())
    over_amqp = broker_url.startswith("amqp")
    app = Celery(name, broker=broker_url, set_as_current=False)
    app.conf.broker_use_ssl = tls
    app.conf.update(
        task_queues=[
            Queue(
                _QUEUE,
                Exchange(_QUEUE, type="direct"),
                routing_key=_QUEUE,
                durable=True,
                # Quorum queues are the replicated kind, and RabbitMQ's only durable one from version 4 on.
                queue_arguments={"x-queue-type": "quorum"} if over_amqp else None,
            )
        ],
        task_default_queue=_QUEUE,
        task_create_missing_queues=False,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=4,
        broker_transport_options=(
            {"confirm_publish": True}
            if over_amqp
            else {"socket_timeout": 5, "socket_connect_timeout": 5, "health_check_interval": 0}
        ),
        task_publish_retry=False,
    )
    return app


class Hints:
    """Sends hints from a thread of its own, in batches over one connection."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._pending = 0
        self._due = math.inf
        self._changed = threading.Condition()
        self._closed = False
        self._reachability = Reachability(
            "the broker takes no hints (%s): the sweeper wakes workers", "the broker takes hints again", explain
        )
        self._thread = self._start()

    @property
    def reachable(self) -> bool:
        """False while the broker does not take hints."""
        return self._reachability.reachable

    def wake(self, count: int = 1) -> None:
        """Ask that up to ``count`` worker slots look for work. Returns at once, from any thread."""
        with self._changed:
            self._pending = min(self._pending + count, _MOST_PENDING)
            self._be_due_in(_GATHERED_SECONDS)

    def remind(self) -> None:
        """Say again by a hint that somebody asked, of whom Redis was told; twice a second at most, in one hint."""
        with self._changed:
            self._pending = max(self._pending, min(self._pending + 1, _SLOTS_A_HINT))
            self._be_due_in(_REMINDED_SECONDS)

    async def watch(self, every_seconds: float = 1.0) -> None:
        """Look for ever whether the thread runs. Raises RuntimeError if it has ended, having started another."""
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread sets no event when it ends
            await asyncio.sleep(every_seconds)
        self._thread = self._start()
        raise RuntimeError("the thread that sends hints has ended")

    def close(self) -> None:
        """Send what is pending if the broker takes it within 2 s, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=2)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="hints", daemon=True)
        thread.start()
        return thread

    def _be_due_in(self, seconds: float) -> None:
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._changed.notify()

    def _take(self) -> int:
        """For how many slots to send hints now; 0 when idle for a while, or closed with none left."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed, timeout=_IDLE_SECONDS)
            while self._pending and not self._closed and (left := self._due - time.monotonic()) > 0:
                self._changed.wait(left)
            count, self._pending = self._pending, 0
            self._due = math.inf
            return count

    def _run(self) -> None:
        while not self._closed:
            try:
                with self._app.connection_for_write() as connection:
                    connection.ensure_connection(max_retries=1, timeout=4)
                    # Before anything is sent: a broker that refuses the queue takes no hints, however it connects.
                    for queue in self._app.conf.task_queues:
                        queue.bind(connection.default_channel).declare()
                    self._reachability.succeeded()
                    producer = self._app.amqp.Producer(connection)
                    while count := self._take():
                        for sent in range(0, count, _SLOTS_A_HINT):
                            self._app.send_task(
                                TASK,
                                (min(count - sent, _SLOTS_A_HINT),),
                                producer=producer,
                                retry=False,
                                confirm_timeout=_CONFIRM_SECONDS,
                            )
            except Exception as error:  # noqa: BLE001 - brokers fail in many ways, and none of them may stop hints
                self._reachability.failed(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=_RETRY_SECONDS)
