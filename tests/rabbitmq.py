"""A RabbitMQ node of the tests' own: Debian's server with its own name, ports, data and port mapper (epmd)."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import amqp
import pytest

from embedded.ports import free_port

# The server's scripts themselves: Debian's wrappers on the PATH change to the user rabbitmq and its data.
_SCRIPTS = "lib/rabbitmq/lib/rabbitmq_server-*/sbin"
_START_SECONDS = 90
_STOP_SECONDS = 20


def find_scripts() -> Path:
    """The folder of RabbitMQ's scripts. Skips the test, saying why, where RabbitMQ is not installed."""
    for folder in sorted(Path("/usr").glob(_SCRIPTS)):
        if (folder / "rabbitmq-server").exists() and shutil.which("epmd"):
            return folder
    pytest.skip("RabbitMQ is not installed; on Debian: apt-get install rabbitmq-server")


class RabbitMQ:
    """A node that runs for the length of a ``with`` block, and can be stopped, killed and started again in it."""

    def __init__(self) -> None:
        self._scripts = find_scripts()
        self._folder = Path(tempfile.mkdtemp(prefix="askmesh-rabbitmq-"))
        self._port, distribution_port, self._mapper_port = (free_port() for _ in range(3))
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\nlog.file.level = warning\ndisk_free_limit.absolute = 1MB\n"
        )
        (self._folder / "enabled_plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._folder),  # where Erlang keeps the cookie that lets rabbitmqctl in
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_NODENAME": f"askmesh-{uuid.uuid4().hex}@localhost",
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            # One scheduler that sleeps when idle: the tests share their machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        self._mapper: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For Celery."""
        return self.url_at(self._port)

    @staticmethod
    def url_at(port: int) -> str:
        """For Celery, at the port of something that leads here."""
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    @property
    def port(self) -> int:
        return self._port

    def __enter__(self) -> Self:
        try:
            # In the foreground, so that it ends with this block; Erlang's own would stay as a daemon.
            self._mapper = self._spawn("epmd", "-port", str(self._mapper_port))
            _wait(lambda: _listens(self._mapper_port), 10, "epmd listens")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._mapper is not None:
            _kill(self._mapper)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the node, with the queues and durable messages that it had, and wait until it takes clients."""
        self._server = self._spawn(str(self._scripts / "rabbitmq-server"))
        _wait(self._takes_clients, _START_SECONDS, "RabbitMQ takes clients")

    def stop(self) -> None:
        """Stop the node in good order."""
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(_STOP_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End the node without warning."""
        if self._server is not None:
            _kill(self._server)
            self._server = None

    def send(self, number: signal.Signals) -> None:
        """Send the node a signal, such as SIGSTOP to let it hang."""
        assert self._server is not None
        self._server.send_signal(number)

    def close_connections(self) -> None:
        """Let the node close the connections of all clients."""
        self._control("close_all_connections", "tests")

    def purge(self, queue: str) -> None:
        """Drop the messages of a queue that nobody has been given yet."""
        self._control("purge_queue", queue)

    def replace_by_classic(self, queue: str) -> None:
        """Let the queue be one of the kind that RabbitMQ makes by default."""
        with self._client() as connection:
            channel = connection.channel()
            channel.queue_delete(queue)
            channel.queue_declare(queue, durable=True, auto_delete=False)

    def delete(self, queue: str) -> None:
        """Drop a queue, whatever it holds."""
        with self._client() as connection:
            connection.channel().queue_delete(queue)

    def permit(self, *, configure: str, read: str) -> None:
        """What the user guest may do, as regular expressions of names. It may write to all."""
        self._control("set_permissions", "guest", configure, ".*", read)

    def messages(self, queue: str) -> int:
        """How many messages a queue holds, delivered ones that are not acknowledged included."""
        lines = self._list("list_queues", "name", "messages").splitlines()
        return int(dict(line.split("\t") for line in lines)[queue])

    def queues(self) -> dict[str, str]:
        """The names of all queues, with their types."""
        lines = self._list("list_queues", "name", "type").splitlines()
        return dict(line.split("\t") for line in lines)

    def waiting(self, queue: str) -> int:
        """How many messages of a queue nobody has been given. Asked in milliseconds; rabbitmqctl takes a second."""
        messages, _ = self._counts(queue)
        return messages

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has. As quick as ``waiting``."""
        _, consumers = self._counts(queue)
        return consumers

    def prefetches(self) -> list[str]:
        """How many messages each consumer may hold that it has not acknowledged."""
        return self._list("list_consumers", "prefetch_count").splitlines()

    def _counts(self, queue: str) -> tuple[int, int]:
        with self._client() as connection:
            declared: Any = connection.channel().queue_declare(queue, passive=True)  # which the stubs say is None
            return declared.message_count, declared.consumer_count

    def _client(self) -> amqp.Connection:
        return amqp.Connection(host=f"127.0.0.1:{self._port}", connect_timeout=5, read_timeout=5)

    def _list(self, *words: str) -> str:
        return self._control("--no-table-headers", *words)

    def _control(self, *words: str) -> str:
        return subprocess.run(
            [str(self._scripts / "rabbitmqctl"), "--quiet", *words],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def _takes_clients(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise AssertionError(f"RabbitMQ ended:\n{(self._folder / 'output.log').read_text(errors='replace')}")
        try:
            with self._client():
                return True
        except (OSError, amqp.AMQPError):
            return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
