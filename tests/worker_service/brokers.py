"""Both kinds of broker behind one face, for tests that stop and start them."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from embedded.valkey import BROKER_DATABASE, Valkey
from tests.rabbitmq import RabbitMQ

QUEUE = "askmesh.hints"


class Broker(ABC):
    """A broker of the test's own."""

    url: str

    @abstractmethod
    def start(self) -> None:
        """Start it again at the same address."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it in good order."""

    @abstractmethod
    def kill(self) -> None:
        """End it without warning."""

    @abstractmethod
    def freeze(self) -> None:
        """Let it hang: its connections stay, and nothing is answered."""

    @abstractmethod
    def thaw(self) -> None:
        """Let it go on."""

    @abstractmethod
    def unfinished(self) -> int:
        """Hints that wait in the queue; if none does, those that are delivered and not acknowledged."""

    @abstractmethod
    def forget_unfinished(self) -> None:
        """Drop what a worker that was killed has not acknowledged, where the broker would keep it."""

    @abstractmethod
    def consumers(self) -> int:
        """Workers that wait for the queue's next hint."""

    @abstractmethod
    def close_connections(self) -> None:
        """Drop all clients."""


class Rabbit(Broker):
    def __init__(self, server: RabbitMQ) -> None:
        self.server = server
        self.url = server.url

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def freeze(self) -> None:
        self.server.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.send(signal.SIGCONT)

    def unfinished(self) -> int:
        return self.server.waiting(QUEUE) or self.server.messages(QUEUE)

    def forget_unfinished(self) -> None:
        """RabbitMQ has put it back into the queue."""

    def consumers(self) -> int:
        return self.server.consumers(QUEUE)

    def close_connections(self) -> None:
        self.server.close_connections()


class RedisBroker(Broker):
    def __init__(self, server: Valkey) -> None:
        self._server = server
        self.url = server.broker_url

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def freeze(self) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def unfinished(self) -> int:
        # In this order, or one that is just being delivered is seen in neither place.
        if waiting := self.waiting():
            return waiting
        with self._client() as client:
            unacknowledged = client.hlen("unacked")
        assert isinstance(unacknowledged, int)
        return unacknowledged

    def waiting(self) -> int:
        """Hints that no worker has taken."""
        with self._client() as client:
            waiting = client.llen(QUEUE)
        assert isinstance(waiting, int)
        return waiting

    def forget_unfinished(self) -> None:
        with self._client() as client:
            client.delete("unacked", "unacked_index")

    def consumers(self) -> int:
        with self._client() as client:
            return sum(entry["cmd"] == "brpop" for entry in client.client_list())

    def close_connections(self) -> None:
        with self._client() as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def _client(self) -> Redis:
        return Redis.from_url(self._server.url(BROKER_DATABASE))


@contextmanager
def run_broker(kind: str, folder: Path) -> Iterator[Broker]:
    """A broker of the kind ``rabbitmq`` or ``valkey``."""
    if kind == "rabbitmq":
        with RabbitMQ() as server:
            yield Rabbit(server)
    else:
        with Valkey(folder) as valkey:
            yield RedisBroker(valkey)
