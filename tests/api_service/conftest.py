from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.postgresql.database import create_engine
from foundation.redis import MeshRedis
from foundation.settings import DatabaseSettings
from tests.api_service.serving import client_of, serving, settings_for
from tests.api_service.worker_actions import REMEMBER_MODEL
from tests.servers import Databases, execute, redis_at


@pytest.fixture(scope="module")
def api_database_url(databases: Databases) -> Iterator[str]:
    """A database with the schema, the test module's own, in which the model is known that tests answer as."""
    with databases.create() as url:
        execute(url, REMEMBER_MODEL)
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(api_database_url: str, valkey: Valkey) -> AsyncIterator[ClientSession]:
    """A client of an API with the default settings, the test module's own."""
    async with serving(settings_for(api_database_url, valkey)) as url, client_of(url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api_redis(valkey: Valkey) -> AsyncIterator[MeshRedis]:
    """The Redis of that API, emptied: it has texts of answers with the same ids in other databases."""
    client: MeshRedis = redis_at(valkey.url())
    await client.flushdb()
    yield client
    await client.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(api_database_url: str, valkey: Valkey, api_redis: MeshRedis) -> AsyncIterator[ClientSession]:
    """A client of such an API that leaves it to the test to read bodies, bit by bit."""
    async with serving(settings_for(api_database_url, valkey)) as url, ClientSession(url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api_engine(api_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on the database of that API."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(api_database_url)), "tests")
    yield engine
    await engine.dispose()


@pytest.fixture
def words(request: pytest.FixtureRequest) -> str:
    """A question that no other test asks."""
    return f"What does {request.node.name} say?"
