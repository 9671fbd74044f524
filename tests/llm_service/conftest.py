"""A whole llm_service in the test's own event loop, over the fake model server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from askmesh.llm.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from tests.fakes.model_server import FakeModelServer, Options

# For things that take milliseconds; a machine that is busy may need more.
PATIENCE = 30.0


@dataclass
class Failure:
    """A failed call as the contract tells it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    details: dict[str, Any]
    """The further details by the names of their types."""

    @property
    def retry_seconds(self) -> float:
        delay = self.details["RetryInfo"].retry_delay
        return float(delay.seconds + delay.nanos / 1e9)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.details["BadRequest"].field_violations]


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """Read the google.rpc.Status of a failed call, and check that it is one."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, *further = status.details
    told = error_details_pb2.ErrorInfo()
    assert info.Unpack(told)
    assert told.domain == "llm.askmesh"
    details = {}
    for detail in further:
        name = detail.type_url.rsplit(".", 1)[-1]
        details[name] = getattr(error_details_pb2, name).FromString(detail.value)
    return Failure(error.code(), status.message, told.reason, dict(told.metadata), details)


@dataclass
class Answer:
    """What a stream brought."""

    started: generation_service_pb2.Started | None = None
    deltas: list[generation_service_pb2.TextDelta] = field(default_factory=list)
    completed: generation_service_pb2.Completed | None = None
    failure: Failure | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


@dataclass
class Client:
    """Raw stubs on a channel of their own."""

    channel: grpc.aio.Channel
    stub: "generation_service_pb2_grpc.GenerationServiceAsyncStub"  # a type of the stubs only

    async def generate(self, spec: generation_pb2.GenerationSpec) -> generation_service_pb2.GenerateResponse:
        return await self.stub.Generate(generation_service_pb2.GenerateRequest(spec=spec), timeout=PATIENCE)

    def open(
        self, spec: generation_pb2.GenerationSpec, timeout: float = PATIENCE
    ) -> grpc.aio.UnaryStreamCall[
        generation_service_pb2.GenerateStreamRequest, generation_service_pb2.GenerateStreamResponse
    ]:
        request = generation_service_pb2.GenerateStreamRequest(spec=spec)
        return self.stub.GenerateStream(request, timeout=timeout)

    async def stream(self, spec: generation_pb2.GenerationSpec, timeout: float = PATIENCE) -> Answer:
        """The whole stream, its events checked to come in the contract's order."""
        answer = Answer()
        try:
            async for event in self.open(spec, timeout):
                assert answer.completed is None, "nothing follows Completed"
                kind = event.WhichOneof("event")
                assert (answer.started is None) == (kind == "started"), "Started comes first, once"
                if kind == "started":
                    answer.started = event.started
                elif kind == "text":
                    answer.deltas.append(event.text)
                else:
                    answer.completed = event.completed
        except grpc.aio.AioRpcError as error:
            answer.failure = failure_of(error)
        assert [delta.sequence for delta in answer.deltas] == list(range(1, len(answer.deltas) + 1))
        assert all(delta.text for delta in answer.deltas)
        assert (answer.completed is None) == (answer.failure is not None)
        return answer

    async def models(self) -> generation_service_pb2.ListModelsResponse:
        return await self.stub.ListModels(generation_service_pb2.ListModelsRequest(), timeout=PATIENCE)


def ask(content: str, **fields: Any) -> generation_pb2.GenerationSpec:
    """A spec of one question."""
    message = generation_pb2.Message(role=generation_pb2.ROLE_USER, content=content)
    return generation_pb2.GenerationSpec(messages=[message], **fields)


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(port: int, *options: tuple[str, int]) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), *options)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Client(channel, generation_service_pb2_grpc.GenerationServiceStub(channel))  # type: ignore[arg-type]


@asynccontextmanager
async def service_over(url: str, default_model: str = "", **settings: Any) -> AsyncIterator[tuple[LlmServer, Client]]:
    """An llm_service on a free port over the model server at this URL."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            LlmServer(
                LlmServiceSettings(llm_port=0, model_url=url, **settings), GenerationSettings(model_name=default_model)
            )
        )
        yield server, await stack.enter_async_context(client_of(server.port))


@pytest.fixture
async def fake(loopback: None) -> AsyncIterator[FakeModelServer]:
    async with FakeModelServer(Options(models=("first", "second"))) as server:
        yield server


@pytest.fixture
async def client(fake: FakeModelServer) -> AsyncIterator[Client]:
    async with service_over(fake.url) as (_, client):
        yield client
