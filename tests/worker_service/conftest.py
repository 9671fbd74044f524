from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.in_process import Worker, working
from tests.worker_service.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
async def llm() -> AsyncIterator[FakeLlmService]:
    service = FakeLlmService()
    async with service.serve():
        yield service


@pytest.fixture
async def worker(engine: AsyncEngine, llm: FakeLlmService, redis: MeshRedis) -> AsyncIterator[Worker]:
    async with working(engine, llm.address, redis) as worker:
        yield worker


@pytest.fixture
def worker_settings(database_url: str, valkey: Valkey, llm: FakeLlmService) -> dict[str, str]:
    """A worker's settings, with the shortest lease that is allowed."""
    return {
        "ASKMESH_DATABASE_URL": database_url,
        "ASKMESH_REDIS_URL": valkey.url(),
        "ASKMESH_BROKER_URL": valkey.broker_url,
        "ASKMESH_LLM_TARGETS": llm.address,
        "ASKMESH_LEASE_SECONDS": "6",
        "ASKMESH_HEARTBEAT_SECONDS": "1",
        "ASKMESH_DRAIN_SECONDS": "20",
    }


@pytest.fixture
def start_worker(worker_settings: dict[str, str], tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker with the settings, of which some can be changed: ``start_worker(ASKMESH_WORKER_SLOTS="8")``."""
    with ExitStack() as stack:
        number = 0

        def start(**changed: str) -> WorkerProcess:
            nonlocal number
            number += 1
            return stack.enter_context(WorkerProcess(worker_settings | changed, tmp_path / f"worker-{number}.log"))

        yield start


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """One that a test may stop. Its broker stays empty."""
    with Valkey(tmp_path / "valkey") as server:
        yield server
