"""A proxy before PostgreSQL that can cut off one process, and cut a connection just when it was told to commit."""

import asyncio
import random
import re
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy.engine import make_url

T = TypeVar("T")

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of the peer: SO_PEERCRED, socket(7)
_COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"
_IDLE = b"Z\x00\x00\x00\x05I"  # ReadyForQuery, outside of a transaction
_EXECUTE = b"S\x00\x00\x00\x04"  # Sync, which ends a statement, and commits where there is no transaction
_WRITES = re.compile(rb"\b(INSERT|UPDATE|DELETE)\b")
_BLOCK = 1 << 16
_SOCKET = ".s.PGSQL.5432"
_PARSE = re.compile(rb"P....([^\0]*)\0([^\0]*)\0", re.DOTALL)


@dataclass(eq=False)
class _Connection:
    pid: int
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    sweeps: set[bytes] = field(default_factory=set)
    """Names of its prepared statements that sweep."""
    writes: set[bytes] = field(default_factory=set)
    """Names of its prepared statements that write."""
    is_idle: bool = False
    """Whether it is outside of a transaction, so that a statement commits by itself."""

    def cut(self) -> None:
        for side in (self.client, self.server):
            side.transport.abort()


class PostgreSQLProxy:
    """Listens on a Unix socket of its own; runs in a thread of its own for the length of a ``with`` block."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        host = url.query["host"]
        assert isinstance(host, str)
        self._server = f"{host}/{_SOCKET}"
        self._folder = Path(tempfile.mkdtemp(prefix="askmesh-chaos-"))
        self.url = url.set(query={"host": str(self._folder)}).render_as_string(hide_password=False)
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._frozen: dict[int, asyncio.Event] = {}
        self._commits_to_cut = 0
        self._rng = random.Random()
        self._on_sweep: Callable[[int], None] | None = None
        self.cut_commits = 0
        """How many connections were cut when they were told to commit."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = self._run(asyncio.start_unix_server(self._serve, self._folder / _SOCKET))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder)

    def cut_commits_of(self, count: int, rng: random.Random) -> None:
        """Cut the next ``count`` connections that commit, by COMMIT or by a statement outside of a transaction."""
        self._rng = rng
        self._commits_to_cut = count

    def freeze(self, pid: int) -> None:
        """Carry nothing more for this process, in either direction, on its connections and on new ones."""
        self._loop.call_soon_threadsafe(lambda: self._frozen.setdefault(pid, asyncio.Event()))

    def thaw(self, pid: int) -> None:
        """Carry on, beginning with what was held up."""
        self._loop.call_soon_threadsafe(lambda: self._frozen.pop(pid).set())

    def on_sweep(self, call: Callable[[int], None] | None) -> None:
        """Call with the process id when one has sent the statement that takes lost answers back."""
        self._on_sweep = call

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _close(self) -> None:
        self._listener.close()
        for connection in tuple(self._connections):
            connection.cut()
        for held in self._frozen.values():
            held.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        pid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(pid, writer, server_writer)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._carry_down(connection, server_reader, writer), self._carry_up(connection, reader, server_writer)
            )
        except OSError:
            pass
        finally:
            connection.cut()
            self._connections.discard(connection)

    async def _carry_down(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while block := await source.read(_BLOCK):
            await self._pass(connection.pid)
            connection.is_idle = block.endswith(_IDLE)
            sink.write(block)
            await sink.drain()
        sink.close()

    async def _carry_up(
        self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while block := await source.read(_BLOCK):
            await self._pass(connection.pid)
            self._learn_statements(connection, block)
            if self._commits_to_cut and self._commits(connection, block):
                await self._cut_commit(connection, block, sink)
                return
            sink.write(block)
            self._look_for_sweep(connection, block)
            await sink.drain()
        await self._pass(connection.pid)
        sink.close()

    async def _cut_commit(self, connection: _Connection, block: bytes, sink: asyncio.StreamWriter) -> None:
        """The client learns nothing. PostgreSQL commits, learns nothing either, or sees that the client is gone."""
        self._commits_to_cut -= 1
        self.cut_commits += 1
        connection.client.transport.abort()
        how = self._rng.choices(("commits", "learns nothing", "rolls back"), (3, 1, 1))[0]
        if how == "learns nothing":
            return  # it keeps the transaction's locks for a while
        if how == "commits":
            sink.write(block)
            await sink.drain()
        sink.close()

    async def _pass(self, pid: int) -> None:
        while (held := self._frozen.get(pid)) is not None:
            await held.wait()

    def _learn_statements(self, connection: _Connection, block: bytes) -> None:
        for name, statement in _PARSE.findall(block):
            if b"WITH lost AS" in statement:
                connection.sweeps.add(name)
            if _WRITES.search(statement):
                connection.writes.add(name)

    def _commits(self, connection: _Connection, block: bytes) -> bool:
        by_itself = connection.is_idle and block.endswith(_EXECUTE) and _names(connection.writes, block)
        return by_itself or block.endswith(_COMMIT)

    def _look_for_sweep(self, connection: _Connection, block: bytes) -> None:
        if self._on_sweep is not None and _names(connection.sweeps, block):
            self._on_sweep(connection.pid)


def _names(statements: set[bytes], block: bytes) -> bool:
    """Whether the block binds one of these prepared statements."""
    return any(b"\0" + name + b"\0" in block for name in statements)
