import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from askmesh.llm.v1.generation_service_pb2 import (
    Completed,
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
    TextDelta,
)
from askmesh_client import GenerationClient, OverloadedError
from askmesh_client.errors import GenerationError

from embedded.ports import free_port
from tests.askmesh_client.replica import COMPLETED, STARTED, Context, Replica, running, text
from tests.nginx.conftest import OpenEdge


async def named(request: GenerateRequest, context: Context) -> GenerateResponse:
    return GenerateResponse(text="x" * 5_000_000 if request.spec.max_output_tokens == 5 else "short")


async def generate(channel: grpc.aio.Channel, request: bytes) -> None:
    """A call whose request need not be one."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/askmesh.llm.v1.GenerationService/Generate"
    )
    await call(request)


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(running(name)) for name in ("a", "b")]
        for replica in started:
            replica.on_generate = named
        yield started


async def test_calls_of_one_channel_take_turns(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    edge = open_edge(llm=[replica.port for replica in replicas])
    async with GenerationClient(edge.grpc) as client:
        await asyncio.gather(*(client.generate(GenerationSpec()) for _ in range(40)))
    first, second = (replica.calls for replica in replicas)
    assert first + second == 40
    assert min(first, second) >= 10


async def test_text_of_a_stream_arrives_as_it_is_written(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    go_on = asyncio.Event()

    async def stream(request: GenerateStreamRequest, context: Context) -> AsyncIterator[GenerateStreamResponse]:
        yield STARTED
        yield text(1, "Par")
        await go_on.wait()
        yield text(2, "is")
        yield COMPLETED

    for replica in replicas:
        replica.on_stream = stream
    edge = open_edge(llm=[replica.port for replica in replicas])
    async with GenerationClient(edge.grpc) as client:
        texts = []
        async for event in client.stream(GenerationSpec()):
            if isinstance(event, TextDelta):
                texts.append(event.text)
                go_on.set()
        assert texts == ["Par", "is"]
        assert isinstance(event, Completed)


async def test_a_cancel_reaches_the_replica(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    edge = open_edge(llm=[replicas[0].port])
    async with GenerationClient(edge.grpc) as client, client.stream(GenerationSpec()) as events:
        assert await anext(events) == STARTED.started
        events.cancel()
        async with asyncio.timeout(30):
            await replicas[0].cancelled.wait()


async def test_a_large_answer_passes(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    edge = open_edge(llm=[replicas[0].port])
    async with GenerationClient(edge.grpc) as client:
        answer = await client.generate(GenerationSpec(max_output_tokens=5))
    assert len(answer.text) == 5_000_000


async def test_without_a_replica_the_status_is_unavailable(open_edge: OpenEdge) -> None:
    edge = open_edge(llm=[free_port()])
    # A plain channel: the client of this project would ask the health service first, and say what that said.
    async with grpc.aio.insecure_channel(edge.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await generate(channel, b"")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "no replica of llm_service answered"


async def test_a_replica_that_is_gone_costs_no_call(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    edge = open_edge(llm=[free_port(), replicas[0].port])
    async with GenerationClient(edge.grpc) as client:
        for _ in range(6):
            await client.generate(GenerationSpec())
    assert replicas[0].calls == 6


async def test_a_call_that_a_replica_has_seen_is_not_repeated(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    edge = open_edge(llm=[replica.port for replica in replicas])
    for replica in replicas:
        replica.on_generate = replica.hang
    async with GenerationClient(edge.grpc) as client:
        call = asyncio.create_task(client.generate(GenerationSpec()))
        called = [asyncio.create_task(replica.called.wait()) for replica in replicas]
        await asyncio.wait(called, return_when=asyncio.FIRST_COMPLETED)
        hit = next(replica for replica in replicas if replica.called.is_set())
        await hit.stop()
        with pytest.raises(GenerationError):
            await call
        for waiting in called:
            waiting.cancel()
    assert sum(replica.calls for replica in replicas) == 1


async def test_a_request_beyond_the_limit_is_refused_as_grpc_servers_refuse_it(
    open_edge: OpenEdge, replicas: list[Replica]
) -> None:
    edge = open_edge(llm=[replicas[0].port])
    async with grpc.aio.insecure_channel(edge.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await generate(channel, b"x" * (18 * 1024 * 1024))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert replicas[0].calls == 0


async def test_an_error_of_a_replica_keeps_its_status(open_edge: OpenEdge, replicas: list[Replica]) -> None:
    async def refuse(request: GenerateRequest, context: Context) -> GenerateResponse:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        raise AssertionError

    replicas[0].on_generate = refuse
    edge = open_edge(llm=[replicas[0].port])
    async with GenerationClient(edge.grpc) as client:
        with pytest.raises(OverloadedError, match="too many"):
            await client.generate(GenerationSpec())
