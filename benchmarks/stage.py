"""The mesh as ``make run`` starts it, with the cheap model server, and a way to put load on it."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import asyncpg
import psutil

from benchmarks import cpu
from benchmarks.load import Load
from benchmarks.measured import Measured
from benchmarks.model_server import Profile
from benchmarks.stores import debian_stores
from tests.mesh import Mesh

_LOAD_SECONDS = 900


class Stage:
    """The mesh and the model server for the length of a ``with`` block."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        debian: bool = False,
        beside: Iterable[int] = (),
        model: tuple[int, str] | None = None,
    ) -> None:
        """``debian``: on stores from Debian's packages. ``beside``: processes that are the mesh's too.

        ``model``: process id and URL of a model server that runs, instead of one that costs next to nothing.
        """
        self._settings = dict(settings or {})
        self._debian = debian
        self._beside = set(beside)
        self._given_model = model
        # Two stages may follow one another on one database, which must not know the second's questions.
        self._name = secrets.token_hex(3)
        self._loads = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="askmesh-bench-")))
            self._model_pid, self.model = self._given_model or stack.enter_context(model_server())
            others = _children()
            if self._debian:
                folder.chmod(0o755)  # PostgreSQL runs as a user of its own
                self._settings |= stack.enter_context(debian_stores(folder))
            settings = {"ASKMESH_MODEL_URL": self.model, "ASKMESH_LOG_LEVEL": "WARNING"} | self._settings
            self.mesh = stack.enter_context(Mesh(folder / "mesh", settings))
            self._roots = (_children() - others) | self._beside
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
        """Put load on the mesh, on the model server where the kind is ``direct``, or on a ``url``."""
        self._loads += 1
        how = {"url": self.model if kind == "direct" else self.mesh.api} | how
        load = Load(kind=kind, count=count, name=f"load {self._name} {self._loads} question", **how)
        before = self._cpu()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=json.dumps(asdict(load)),
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
            cpu=used | {"load": seen["cpu_seconds"]},
        )

    def also(self, pids: Iterable[int]) -> None:
        """Count these processes as the mesh's from now on."""
        self._roots |= set(pids)

    def megabytes(self) -> dict[str, float]:
        """The largest process of each name."""
        return cpu.megabytes(self._roots)

    def database_url(self) -> str:
        """PostgreSQL: as it was given, or as make run leaves it for the operator's command."""
        given = self._settings.get("ASKMESH_DATABASE_URL")
        return given or (self.mesh.data_dir / "database_url").read_text().strip()

    def run(self, statement: str, *parameters: object) -> Any:
        """The first value of what an SQL statement returns."""
        return run(self.database_url(), statement, *parameters)

    def _cpu(self) -> dict[str, float]:
        return cpu.seconds({*self._roots, self._model_pid})

    def _model_call(self, path: str, body: bytes | None = None) -> Any:
        with urlopen(Request(self.model.removesuffix("/v1") + path, data=body), timeout=10) as reply:
            return json.loads(reply.read())


def run(url: str, statement: str, *parameters: object) -> Any:
    """The first value of what an SQL statement returns, outside of any transaction."""

    async def fetch() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement, *parameters, timeout=_LOAD_SECONDS)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def _children() -> set[int]:
    return {process.pid for process in psutil.Process(os.getpid()).children()}


@contextmanager
def model_server() -> Iterator[tuple[int, str]]:
    """Its process id, and its URL up to and including /v1."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.model_server"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()
