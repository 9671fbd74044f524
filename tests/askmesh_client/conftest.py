from collections.abc import AsyncIterator

import pytest
from askmesh_client import GenerationClient

from tests.askmesh_client.replica import Replica, running


@pytest.fixture
async def replica(loopback: None) -> AsyncIterator[Replica]:
    async with running("only") as replica:
        yield replica


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[GenerationClient]:
    async with GenerationClient(f"127.0.0.1:{replica.port}") as client:
        yield client
