"""A stand-in for a replica of llm_service: a real gRPC server whose answers the test writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc.aio
from askmesh.llm.v1 import generation_service_pb2_grpc
from askmesh.llm.v1.generation_pb2 import FINISH_REASON_STOP
from askmesh.llm.v1.generation_service_pb2 import (
    Completed,
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    Started,
    TextDelta,
)
from askmesh_client.channel import SERVER_OPTIONS, SERVICE
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"
Stream: TypeAlias = Callable[[GenerateStreamRequest, Context], AsyncIterator[GenerateStreamResponse]]

STARTED = GenerateStreamResponse(started=Started(request_id="r-1", model="m"))
COMPLETED = GenerateStreamResponse(completed=Completed(finish_reason=FINISH_REASON_STOP))


def text(sequence: int, text: str) -> GenerateStreamResponse:
    return GenerateStreamResponse(text=TextDelta(sequence=sequence, text=text))


class Replica(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves what its attributes say, and counts. Its name is the id of its only model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.calls = 0
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.on_generate: Callable[[GenerateRequest, Context], Awaitable[GenerateResponse]] = self.hang
        self.on_stream: Stream = self.hang_after_text
        self.on_list_models: Callable[[Context], Awaitable[ListModelsResponse]] = self.models
        self._health = health.aio.HealthServicer()

    async def start(self) -> None:
        """Listen on a free port, or again on the one of the start before."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.serving(True)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(grace=None)

    async def serving(self, yes: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self._health.set(SERVICE, states.SERVING if yes else states.NOT_SERVING)

    async def hang(self, request: GenerateRequest, context: Context) -> GenerateResponse:
        await self._wait_for_cancel()
        raise AssertionError

    async def hang_after_text(
        self, request: GenerateStreamRequest, context: Context
    ) -> AsyncIterator[GenerateStreamResponse]:
        yield STARTED
        yield text(1, "Par")
        await self._wait_for_cancel()

    async def models(self, context: Context) -> ListModelsResponse:
        return ListModelsResponse(models=[Model(id=self.name, is_default=True)])

    async def _wait_for_cancel(self) -> None:
        self.called.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def Generate(self, request: GenerateRequest, context: Context) -> GenerateResponse:  # noqa: N802
        self.calls += 1
        return await self.on_generate(request, context)

    async def GenerateStream(  # noqa: N802
        self, request: GenerateStreamRequest, context: Context
    ) -> AsyncIterator[GenerateStreamResponse]:
        self.calls += 1
        async for response in self.on_stream(request, context):
            yield response

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        self.calls += 1
        return await self.on_list_models(context)


@asynccontextmanager
async def running(name: str) -> AsyncIterator[Replica]:
    replica = Replica(name)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until the condition holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)
