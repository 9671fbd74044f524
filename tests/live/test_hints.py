"""How many messages hints make."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from live.hints import TASK, Hints


class _Broker:
    """Celery's app as far as Hints uses it; notes the argument of each message that it is given."""

    def __init__(self) -> None:
        self.amqp = self
        self.conf = SimpleNamespace(task_queues=())
        self.sent: list[int] = []
        self.arrived = threading.Event()
        self.takes = threading.Event()
        self.takes.set()
        self.ends_the_thread = False

    def send_task(self, name: str, arguments: tuple[int], **_: object) -> None:
        assert name == TASK
        if self.ends_the_thread:
            sys.exit()
        self.takes.wait(10)
        self.sent.append(*arguments)
        self.arrived.set()

    def Producer(self, _connection: object) -> object:  # noqa: N802 - Celery's name
        return object()

    @contextmanager
    def connection_for_write(self) -> Iterator[Any]:
        yield self

    def ensure_connection(self, **_: object) -> None:
        pass


@pytest.fixture
def broker() -> _Broker:
    return _Broker()


@pytest.fixture
def hints(broker: _Broker) -> Iterator[Hints]:
    hints = Hints(broker)  # type: ignore[arg-type] # a stand-in
    yield hints
    broker.takes.set()
    hints.close()


def _sent(broker: _Broker, slots: int) -> list[int]:
    """The messages, once they are for so many slots."""
    until = time.monotonic() + 10
    while sum(broker.sent) < slots and time.monotonic() < until:
        time.sleep(0.001)
    return broker.sent


def test_one_message_speaks_for_all_that_is_asked_within_a_moment(broker: _Broker, hints: Hints) -> None:
    broker.takes.clear()
    hints.wake()
    hints.wake()
    while hints._pending:
        time.sleep(0.001)
    for _ in range(10):
        hints.wake()
    broker.takes.set()

    assert _sent(broker, 12) == [2, 10]


def test_a_message_is_for_no_more_slots_than_a_worker_can_be_expected_to_have(broker: _Broker, hints: Hints) -> None:
    hints.wake(40)

    assert _sent(broker, 40) == [16, 16, 8]


def test_one_message_reminds_of_all_that_redis_was_told(broker: _Broker, hints: Hints) -> None:
    for _ in range(100):
        hints.remind()
    assert _sent(broker, 16) == [16]

    hints.remind()
    assert _sent(broker, 17) == [16, 1]


def test_a_reminder_goes_along_with_a_hint(broker: _Broker, hints: Hints) -> None:
    for _ in range(100):
        hints.remind()
    hints.wake(4)

    assert _sent(broker, 20) == [16, 4]


def test_in_a_flood_hints_are_gathered(broker: _Broker, hints: Hints) -> None:
    began = time.monotonic()
    for _ in range(500):
        hints.wake()
        time.sleep(0.001)
    sent = _sent(broker, 500)
    seconds = time.monotonic() - began

    assert sum(sent) == 500
    assert len(sent) <= 1 + seconds * 20 + sum(count == 16 for count in sent)


def test_what_is_pending_is_sent_on_closing(broker: _Broker, hints: Hints) -> None:
    for _ in range(20):  # beyond what goes out at once
        hints.wake()
        time.sleep(0.002)
    hints.close()

    assert sum(broker.sent) == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_ended_is_noticed_and_replaced(broker: _Broker, hints: Hints) -> None:
    broker.ends_the_thread = True
    hints.wake()
    with pytest.raises(RuntimeError, match="has ended"):
        await asyncio.wait_for(hints.watch(every_seconds=0.01), 10)
    broker.ends_the_thread = False
    hints.wake()
    watching = asyncio.create_task(hints.watch(every_seconds=0.01))
    while not broker.sent:
        await asyncio.sleep(0.01)
        assert not watching.done()
    watching.cancel()
