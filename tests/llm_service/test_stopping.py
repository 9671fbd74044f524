"""Whatever ends a call stops the model: the fake sees its client leave while it would write for an hour."""

import asyncio
import time

import grpc
import pytest
from askmesh.llm.v1 import generation_service_pb2
from askmesh_client.channel import SERVICE
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from tests.fakes.model_server import FakeModelServer, Options, Script
from tests.llm_service.conftest import PATIENCE, Client, ask, client_of, service_over, until

pytestmark = pytest.mark.loopback

ENDLESS = "q [[tokens=1000 delay=0.02]]"
SILENT = ["q [[fault=hang-before]]", "q [[first=3600]]", "q [[fault=hang at=2]]", ENDLESS]


async def stopped(fake: FakeModelServer, since: float) -> None:
    """Wait until the fake has seen its client leave, and print how long that took."""
    await until(lambda: fake.counts.aborted == 1)
    print(f"upstream closed after {(fake.counts.last_abort_at - since) * 1000:.1f} ms")  # noqa: T201
    assert fake.counts.in_flight == 0
    assert fake.counts.completed == 0


@pytest.mark.parametrize("question", SILENT)
async def test_a_cancelled_stream_stops_the_model(client: Client, fake: FakeModelServer, question: str) -> None:
    call = client.open(ask(question))
    reading = asyncio.create_task(read_all(call))
    await until(lambda: fake.counts.in_flight == 1)
    since = time.monotonic()
    call.cancel()
    await stopped(fake, since)
    await asyncio.gather(reading, return_exceptions=True)
    assert await call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("question", SILENT)
async def test_a_cancelled_unary_call_stops_the_model(client: Client, fake: FakeModelServer, question: str) -> None:
    call = client.stub.Generate(generation_service_pb2.GenerateRequest(spec=ask(question)))
    await until(lambda: fake.counts.in_flight == 1)
    since = time.monotonic()
    call.cancel()
    await stopped(fake, since)
    assert await call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("question", SILENT)
async def test_a_deadline_stops_the_model(client: Client, fake: FakeModelServer, question: str) -> None:
    since = time.monotonic() + 0.5
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(client.open(ask(question), timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stopped(fake, since)


@pytest.mark.parametrize("question", SILENT)
async def test_a_lost_connection_stops_the_model(fake: FakeModelServer, question: str) -> None:
    async with service_over(fake.url) as (server, _):
        async with client_of(server.port) as client:
            reading = asyncio.create_task(read_all(client.open(ask(question))))
            await until(lambda: fake.counts.in_flight == 1)
            since = time.monotonic()
        await stopped(fake, since)
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("question", SILENT)
async def test_the_time_limit_stops_the_model(client: Client, fake: FakeModelServer, question: str) -> None:
    since = time.monotonic() + 0.5
    await client.stream(ask(question, time_limit=Duration(nanos=500_000_000)))
    await stopped(fake, since)


async def test_a_reader_that_stalls_and_leaves_stops_the_model() -> None:
    # 50 MB from the model, far more than fits its buffers, and a reader that takes 64 KB: the service waits in a write.
    options = Options(context=10_000_000, script=Script(tokens=300_000))
    window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with (
        FakeModelServer(options) as fake,
        service_over(fake.url) as (server, _),
        client_of(server.port, *window) as client,
    ):
        call = client.open(ask("q"))
        await call.read()
        written = -1
        while written < fake.counts.tokens_written or written <= 0:
            written = fake.counts.tokens_written
            await asyncio.sleep(0.5)
        assert fake.counts.in_flight == 1
        since = time.monotonic()
        call.cancel()
        await stopped(fake, since)


async def test_draining_lets_generations_finish_and_refuses_new_ones(fake: FakeModelServer) -> None:
    async with service_over(fake.url) as (server, client):
        running = asyncio.create_task(client.stream(ask("q [[delay=0.05]]")))
        await until(lambda: fake.counts.in_flight == 1)
        draining = asyncio.create_task(server.drain(PATIENCE))
        await until_not_serving(client)
        refused = await client.stream(ask("r", request_id="mine"))
        assert refused.failure is not None
        assert (refused.failure.code.name, refused.failure.reason) == ("UNAVAILABLE", "DRAINING")
        assert refused.failure.metadata == {"request_id": "mine"}
        assert refused.failure.retry_seconds > 0
        with pytest.raises(grpc.aio.AioRpcError):
            await client.models()
        await draining
        assert (await running).completed is not None


@pytest.mark.parametrize("question", SILENT)
async def test_draining_ends_what_does_not_finish(fake: FakeModelServer, question: str) -> None:
    async with service_over(fake.url) as (server, client):
        running = asyncio.create_task(client.stream(ask(question, request_id="mine")))
        await until(lambda: fake.counts.in_flight == 1)
        await asyncio.sleep(0.1)
        since = time.monotonic()
        await server.drain(0)
        await stopped(fake, since)
        failure = (await running).failure
        assert failure is not None
        assert (failure.code.name, failure.reason) == ("UNAVAILABLE", "DRAINING")
        assert failure.metadata == {"request_id": "mine"} | (
            {} if "hang-before" in question else {"engine_started": "true"}
        )


async def until_not_serving(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    async with asyncio.timeout(PATIENCE):
        while (await health.Check(request)).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            await asyncio.sleep(0.005)


async def read_all(
    call: grpc.aio.UnaryStreamCall[
        generation_service_pb2.GenerateStreamRequest, generation_service_pb2.GenerateStreamResponse
    ],
) -> None:
    async for _ in call:
        pass
