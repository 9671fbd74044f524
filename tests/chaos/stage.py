"""Where scenarios play: the mesh as ``make run`` starts it, between a broker and a model server of the tests."""

import asyncio
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Self
from urllib.parse import urlsplit
from urllib.request import urlopen

import asyncpg
import orjson
import psutil

from embedded.ports import free_port
from embedded.postgresql import PostgreSQL
from tests.chaos import audit
from tests.chaos.model_server import ModelServer
from tests.chaos.proxy import PostgreSQLProxy
from tests.mesh import Mesh
from tests.rabbitmq import RabbitMQ
from tests.servers import run_apart

_HEALTHY_SECONDS = 90


@dataclass(frozen=True)
class Setup:
    """What is started. ``name`` goes into test ids."""

    name: str
    workers: int = 2
    over_rabbitmq: bool = True
    """Valkey is the broker otherwise."""
    behind_proxy: bool = False
    """PostgreSQL is the tests' own, and all that is said to it goes through a proxy."""
    lease_seconds: float = 10
    """Shorter than usual, because scenarios wait for it to run out."""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ASKMESH_PORT": str(free_port()),  # the same after a full stop
            "ASKMESH_WORKER_REPLICAS": str(self.workers),
            "ASKMESH_LLM_REPLICAS": "2",
            "ASKMESH_API_REPLICAS": "2",
            "ASKMESH_LEASE_SECONDS": str(self.lease_seconds),
            "ASKMESH_HEARTBEAT_SECONDS": str(self.lease_seconds / 5),
        } | self.settings


class Stage:
    """All servers and processes of one setup, for the length of a ``with`` block."""

    mesh: Mesh
    model: ModelServer
    rabbitmq: RabbitMQ
    postgresql: PostgreSQL
    proxy: PostgreSQLProxy

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup = setup
        self._mark = uuid.uuid4().hex
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            settings = self.setup.environment | {"CHAOS_STAGE": self._mark}
            self.model = stack.enter_context(ModelServer(self._folder))
            settings["ASKMESH_MODEL_URL"] = self.model.url
            if self.setup.over_rabbitmq:
                self.rabbitmq = stack.enter_context(RabbitMQ())
                settings["ASKMESH_BROKER_URL"] = self.rabbitmq.url
            if self.setup.behind_proxy:
                # As few as the pools of the services need, so that they can be exhausted quickly.
                self.postgresql = PostgreSQL(self._folder / "postgresql", settings={"max_connections": "80"})
                stack.enter_context(self.postgresql)
                self.proxy = stack.enter_context(PostgreSQLProxy(self.postgresql.url))
                settings["ASKMESH_DATABASE_URL"] = self.proxy.url
            self.mesh = stack.enter_context(Mesh(self._folder / "mesh", settings))
            run_apart(audit.install(self.database_url))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        marks = {self._mark, str(Path(urlsplit(self.valkey_url).path).parent)}
        if self.setup.over_rabbitmq:
            marks.add(str(self.rabbitmq._folder))
        self._stack.__exit__(kind, error, None)
        left = [process for process in psutil.process_iter() if _bears(process, marks)]
        assert not left, f"left running: {left}"

    @property
    def api(self) -> str:
        return self.mesh.api

    @property
    def database_url(self) -> str:
        """PostgreSQL itself."""
        return self.postgresql.url if self.setup.behind_proxy else self._address("postgresql")

    @property
    def valkey_url(self) -> str:
        return self._address(r"valkey \(cache\)")

    def pids(self, service: str = "") -> dict[str, int]:
        """Name and process id of the replicas that run now, of one service or of all."""
        running = {process.pid for process in self._children() if _runs(process)}
        recorded = self.mesh.processes().items()
        return {name: pid for name, pid in recorded if name.startswith(service) and pid in running}

    def send(self, number: Signals, pid: int) -> None:
        """Signal a process that the mesh started. One that has just ended by itself got what it was to get."""
        if pid in {process.pid for process in self._children()}:
            os.kill(pid, number)

    def is_back(self, name: str, *, before: int) -> bool:
        """Whether another process than ``before`` runs under this name and has said that it is ready."""
        pid = self.pids().get(name, before)
        log = (self.mesh.data_dir / "logs" / f"{name}.log").read_text()
        return pid != before and re.search(rf"\[{pid}\] .*(: ready|: listening)", log) is not None

    def worker_environment(self) -> dict[str, str]:
        """The settings that the mesh gives its workers."""
        pid = next(iter(self.pids("worker_service").values()))
        return {name: value for name, value in psutil.Process(pid).environ().items() if name.startswith("ASKMESH_")}

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = _HEALTHY_SECONDS) -> None:
        """Wait; fail with the ends of all logs if it takes too long."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain: {what}\n{self.mesh.logs()}")
            await asyncio.sleep(0.1)

    async def until_healthy(self) -> None:
        """Wait until everything runs, each worker has a lease, and no question is left over."""
        await self.until(self._is_ready, "the mesh is ready, and nothing is degraded")
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while not await self._is_idle():
            assert time.monotonic() < deadline, f"workers have no lease, or do not finish\n{self.mesh.logs()}"
            await asyncio.sleep(0.2)

    async def fetch(self, statement: str, *parameters: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database_url)
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement, *parameters)
            return found
        finally:
            await connection.close()

    async def leases(self) -> dict[int, int]:
        """``workers.id`` of the current lease of each worker process, by process id."""
        rows = await self.fetch("SELECT id, name FROM workers WHERE lease_until > clock_timestamp() ORDER BY id")
        return {int(row["name"].split()[-1]): row["id"] for row in rows}

    async def leases_of_running(self) -> dict[int, int]:
        """The same, of those that run now: a dead worker's lease lasts until it runs out."""
        running = self.pids("worker_service").values()
        return {pid: lease for pid, lease in (await self.leases()).items() if pid in running}

    async def holders(self) -> set[int]:
        """Process ids of the workers that run now and hold answers."""
        rows = await self.fetch(
            "SELECT name FROM workers WHERE id IN (SELECT holder FROM answers WHERE state = 'in_progress')"
        )
        return {int(row["name"].split()[-1]) for row in rows}.intersection(self.pids("worker_service").values())

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.api}/readyz", timeout=5) as reply:
                return bool(orjson.loads(reply.read())["degraded"] == [])
        except OSError:
            return False

    async def _is_idle(self) -> bool:
        try:
            leased = await self.leases_of_running()
            live = await self.fetch("SELECT FROM answers WHERE state IN ('queued', 'in_progress') LIMIT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return len(leased) == len(self.pids("worker_service")) == self.setup.workers and not live

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.mesh.supervisor.pid).children()

    def _address(self, what: str) -> str:
        found = re.findall(rf"^  {what} +(\S+)$", "".join(self.mesh.output), re.MULTILINE)
        assert found, self.mesh.output
        return str(found[-1])


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it ended since it was listed
        return False


def _bears(process: psutil.Process, marks: set[str]) -> bool:
    """Whether a process that still runs was started with one of the marks, in its command or environment."""
    try:
        words = [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return False
    return any(mark in word for mark in marks for word in words)
