"""Real servers for tests: one PostgreSQL and one Valkey a session, and a database of its own for whoever asks."""

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from embedded.postgresql import PostgreSQL
from foundation.redis import MeshRedis, RedisState, create_redis
from foundation.settings import RedisSettings
from schema.migrations.__main__ import migrate

T = TypeVar("T")

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Settings of a PostgreSQL whose data nobody needs after a crash."""

MESH = "00000000-0000-4000-8000-000000000000"
"""The id of the mesh in all of ``Databases``, so that a test knows the keys of the processes that it starts."""

_TEMPLATE = "template_with_schema"


class Databases:
    """Databases with the schema of this release, each a copy of one that was migrated once."""

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        execute(server.url, f"CREATE DATABASE {_TEMPLATE}")
        run_apart(migrate(self.url(_TEMPLATE)))
        execute(self.url(_TEMPLATE), f"UPDATE mesh SET id = '{MESH}'")

    def url(self, database: str) -> str:
        """The URL of a database on this server."""
        return make_url(self._server.url).set(database=database).render_as_string(hide_password=False)

    @contextmanager
    def create(self, template: str = _TEMPLATE) -> Iterator[str]:
        """The URL of a new database, which is gone afterwards, whoever is still connected."""
        name = f"test_{uuid.uuid4().hex}"
        execute(self._server.url, f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            execute(self._server.url, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    """Run one SQL statement outside of any transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    run_apart(run())


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from a fixture that is not asynchronous, apart from the event loop of the tests."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()


def redis_at(url: str, *, mesh_id: str | None = MESH, blocks: float = 0) -> MeshRedis:
    """A client for the mesh of the tests."""
    settings = RedisSettings(redis_url=SecretStr(url))
    return create_redis(settings, RedisState("tests", mesh_id), blocks=blocks)
