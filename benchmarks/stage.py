"""What is measured: the mesh as ``make run`` starts it, with the cheap model server, and a way to put load on it."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import asyncpg

from benchmarks import cpu
from benchmarks.load import Load
from benchmarks.model_server import Profile
from tests.mesh import Mesh

_LOAD_SECONDS = 900


@dataclass(frozen=True)
class Measured:
    """What one load saw, and what it cost. Times in seconds; ``cpu`` by process name, the load generator's apart."""

    count: int
    seconds: float
    latencies: list[float]
    first_tokens: list[float]
    cpu: dict[str, float]
    load_cpu: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.count / self.seconds

    @property
    def mesh_cpu(self) -> float:
        """CPU seconds of all services and stores, without the model server."""
        return sum(used for name, used in self.cpu.items() if name != "fake model")

    def median(self) -> float:
        """Of the latencies."""
        return median(self.latencies)

    def percentile_99(self) -> float:
        """Of the latencies."""
        return quantiles(self.latencies, n=100)[98]


class Stage:
    """The mesh and the model server for the length of a ``with`` block."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._loads = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="askmesh-bench-")))
            self.model_pid, self.model = stack.enter_context(_model_server())
            settings = {"ASKMESH_MODEL_URL": self.model, "ASKMESH_LOG_LEVEL": "WARNING", **self._settings}
            self.mesh = stack.enter_context(Mesh(folder, settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def profile(self, profile: Profile) -> None:
        """Set the model server up, and clear its counts."""
        self._model_call("/profile", json.dumps(asdict(profile)).encode())

    def stats(self) -> dict[str, int]:
        """The model server's counts."""
        counts: dict[str, int] = self._model_call("/stats")
        return counts

    def put(self, kind: str, count: int, **how: Any) -> Measured:
        """Put load on the mesh, or on the model server where the kind is ``direct``."""
        self._loads += 1
        url = self.model if kind == "direct" else self.mesh.api
        load = Load(kind=kind, url=url, count=count, name=f"load {self._loads} question", **how)
        before = self._cpu()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))],
            capture_output=True,
            text=True,
            timeout=_LOAD_SECONDS,
            check=False,
        )
        used = cpu.difference(self._cpu(), before)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert not seen["wrong"], f"{kind}: {seen['wrong']}\n{self.mesh.logs()}"
        return Measured(
            count=count,
            seconds=seen["ended"] - seen["began"],
            latencies=seen["latencies"],
            first_tokens=seen["first_tokens"],
            cpu=used,
            load_cpu=seen["cpu_seconds"],
        )

    def megabytes(self) -> dict[str, float]:
        """The largest process of each name."""
        return cpu.megabytes([self.mesh.supervisor.pid])

    def database_url(self) -> str:
        """PostgreSQL, as make run leaves it for the operator's command."""
        return (self.mesh.data_dir / "database_url").read_text().strip()

    def run(self, statement: str, *parameters: object) -> Any:
        """The first value of what an SQL statement returns."""
        return asyncio.run(_fetch_value(self.database_url(), statement, parameters))

    def _cpu(self) -> dict[str, float]:
        used = cpu.seconds([self.mesh.supervisor.pid])
        return used | {"fake model": sum(cpu.seconds([self.model_pid]).values())}

    def _model_call(self, path: str, body: bytes | None = None) -> Any:
        with urlopen(Request(self.model.removesuffix("/v1") + path, data=body), timeout=10) as reply:
            return json.loads(reply.read())


async def _fetch_value(url: str, statement: str, parameters: tuple[object, ...]) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *parameters, timeout=_LOAD_SECONDS)
    finally:
        await connection.close()


@contextmanager
def _model_server() -> Iterator[tuple[int, str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.model_server"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()
