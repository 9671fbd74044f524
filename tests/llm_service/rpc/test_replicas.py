from typing import TYPE_CHECKING, cast

import grpc.aio
import pytest
from askmesh.llm.v1.generation_pb2 import ROLE_USER, GenerationSpec, Message
from askmesh.llm.v1.generation_service_pb2 import ListModelsRequest, TextDelta
from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceStub
from askmesh_client import GenerationClient
from askmesh_client.channel import CHANNEL_OPTIONS

from embedded.ports import free_port
from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from tests.askmesh_client.replica import eventually
from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.name_server import name_server

if TYPE_CHECKING:
    from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

pytestmark = pytest.mark.loopback


async def test_a_replica_that_is_added_to_a_name_gets_calls_and_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_service.server._CONNECTION_SECONDS", 1)
    port = free_port()

    def replica(host: str, model_url: str) -> LlmServer:
        settings = LlmServiceSettings(llm_host=host, llm_port=port, model_url=model_url)
        return LlmServer(settings, GenerationSettings())

    async with (
        FakeModelServer(Options(models=["first"])) as first,
        FakeModelServer(Options(models=["second"])) as second,
        replica("127.0.0.1", first.url),
        replica("127.0.0.2", second.url),
        name_server("127.0.0.1") as names,
        grpc.aio.insecure_channel(f"dns://127.0.0.1:{names.port}/llm:{port}", options=CHANNEL_OPTIONS) as channel,
    ):
        # The asynchronous type of the stub exists only for type checkers.
        stub = cast("GenerationServiceAsyncStub", GenerationServiceStub(channel))

        async def models() -> set[str]:
            return {(await stub.ListModels(ListModelsRequest(), timeout=60)).models[0].id for _ in range(10)}

        assert await models() == {"first"}
        names.addresses = ["127.0.0.1", "127.0.0.2"]

        async def both() -> bool:
            return await models() == {"first", "second"}

        await eventually(both)


async def test_a_stream_outlives_the_age_of_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_service.server._CONNECTION_SECONDS", 1)
    question = "q [[tokens=12 delay=0.25]]"
    async with (
        FakeModelServer() as fake,
        LlmServer(LlmServiceSettings(llm_port=0, model_url=fake.url), GenerationSettings()) as server,
        GenerationClient(f"127.0.0.1:{server.port}") as client,
    ):
        spec = GenerationSpec(messages=[Message(role=ROLE_USER, content=question)], max_output_tokens=100)
        texts = [event.text async for event in client.stream(spec) if isinstance(event, TextDelta)]
    assert "".join(texts) == expected_answer(question)
    assert fake.of(question).requests == 1
