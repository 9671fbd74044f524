"""Fixtures that several packages' tests share."""

import os
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# Before anything imports grpc: with its fork support on, children that a process serving gRPC forks can die of SIGSEGV.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from embedded.postgresql import PostgreSQL
from embedded.valkey import Valkey
from foundation.postgresql.database import create_engine
from foundation.redis import MeshRedis
from foundation.settings import DatabaseSettings
from tests.needs import Guard, mark_needs
from tests.scheduling import ByServers, longest_first
from tests.servers import FAST, Databases, redis_at


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByServers:
    """Where several processes share the run."""
    config.option.loadscopereorder = False  # it is in order already
    return ByServers(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before ``-m`` chooses among them; in each process, where several share the run."""
    for item in items:
        mark_needs(item)
    if hasattr(config, "workerinput"):
        longest_first(items)


_GUARD = Guard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that needs more than its marks say fails, even if it survives what it was refused."""
    _GUARD.watch(item)
    try:
        result = yield
        missing = _GUARD.refused
    finally:
        _GUARD.watch(None)
    if missing:
        pytest.fail(f"it needs the marks: {', '.join(sorted(missing))}", pytrace=False)
    return result


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """Settings that whoever runs the tests has set decide nothing in them."""
    for name in [name for name in os.environ if name.startswith("ASKMESH_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def loopback() -> None:
    """A fixture that asks for it serves in this process, on sockets of this machine."""


@pytest.fixture(scope="session")
def processes() -> None:
    """A fixture that asks for it starts processes."""


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL server. A test that stops or breaks one starts its own instead."""
    with PostgreSQL(tmp_path_factory.mktemp("postgresql") / "data", settings=FAST) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgresql: PostgreSQL) -> Databases:
    """Makes databases with the schema: ``with databases.create() as url:``."""
    return Databases(postgresql)


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[str]:
    """An empty database with the schema, the test module's own."""
    with databases.create() as url:
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on an empty, migrated database."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(database_url)), "tests")
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE questions, answers, workers, ledger_entries, ledger_days"))
        await connection.execute(text("SELECT setval('claimed_turns', 0)"))
    yield engine
    await engine.dispose()


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database without any schema."""
    with databases.create(template="template1") as url:
        yield url


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey server: ``valkey.url()`` for a cache, ``valkey.broker_url`` for Celery."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[MeshRedis]:
    """An empty cache."""
    redis = redis_at(valkey.url())
    await redis.flushdb()
    yield redis
    await redis.aclose()
