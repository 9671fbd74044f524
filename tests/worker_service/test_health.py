"""What a worker tells probes, by the real protocol from outside of its process."""

import asyncio
import signal

import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.ports import HOST, free_port, listen, port_of
from schema.migrations.__main__ import migrate
from tests.worker_service.asking import ask
from tests.worker_service.conftest import StartWorker
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.waiting import eventually
from worker_service.health import READY


async def serving(port: int, service: str) -> bool:
    """Whether a probe of this service passes."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            answer = await HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


async def test_it_is_alive_before_it_is_ready(empty_database_url: str, start_worker: StartWorker) -> None:
    port = free_port()
    worker = start_worker(ASKMESH_DATABASE_URL=empty_database_url, ASKMESH_WORKER_HEALTH_PORT=str(port))
    await eventually(lambda: serving(port, ""), "the worker is alive")
    await eventually(lambda: "waiting for the database" in worker.log_text(), "the worker has looked for its schema")
    assert not await serving(port, READY)

    await asyncio.to_thread(lambda: asyncio.run(migrate(empty_database_url)))
    await eventually(lambda: serving(port, READY), "the worker is ready")


async def test_a_worker_that_was_told_to_stop_is_alive_and_not_ready(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    port = free_port()
    llm.flowing.clear()
    worker = start_worker(ASKMESH_WORKER_HEALTH_PORT=str(port))
    await eventually(lambda: serving(port, READY), "the worker is ready")
    await ask(engine, "a question")
    await eventually(lambda: llm.running == 1, "the question is being answered")

    worker.send(signal.SIGTERM)
    await eventually(lambda: _none_of(port), "the worker is not ready")
    assert await serving(port, "")
    llm.flowing.set()
    assert await worker.ended() == 0
    assert not await serving(port, "")


async def _none_of(port: int) -> bool:
    return not await serving(port, READY)


async def test_a_port_in_use_ends_it_and_is_named(start_worker: StartWorker) -> None:
    with listen(0, "") as taken:
        worker = start_worker(ASKMESH_WORKER_HEALTH_PORT=str(port_of(taken)))
        assert await worker.ended() != 0
    assert f"ASKMESH_WORKER_HEALTH_PORT: cannot listen on {HOST}:" in worker.log_text()
