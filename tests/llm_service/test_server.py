"""llm_service as the process that it is in production."""

import asyncio
import signal

import grpc
import pytest
from askmesh.llm.v1 import generation_pb2
from askmesh_client.channel import SERVICE
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from tests.fakes.model_server import FakeModelServer
from tests.llm_service.conftest import PATIENCE, Client, ask, client_of, until
from tests.llm_service.processes import running, service_process

pytestmark = pytest.mark.loopback

NOBODY = "http://127.0.0.1:9/v1"


async def health_of(client: Client, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    response = await health_pb2_grpc.HealthStub(client.channel).Check(request, timeout=PATIENCE)
    return int(response.status)


async def test_it_starts_and_serves_without_a_model_server_and_stops_at_once() -> None:
    async with service_process(NOBODY) as service, client_of(service.port) as client:
        for name in ("", SERVICE):
            assert await health_of(client, name) == health_pb2.HealthCheckResponse.SERVING
        failure = (await client.stream(ask("q"))).failure
        assert failure is not None
        assert failure.reason == "MODEL_SERVER_UNAVAILABLE"
        service.tell(signal.SIGTERM)
        status, log = await service.stopped()
    assert status == 0
    assert log.splitlines()[-1].endswith("stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_drains_before_it_stops(fake: FakeModelServer, number: signal.Signals) -> None:
    async with (
        service_process(fake.url, drain_seconds="60") as service,
        client_of(service.port) as client,
        client_of(service.port) as watcher,
    ):
        watch = health_pb2_grpc.HealthStub(watcher.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        running_call = asyncio.create_task(client.stream(ask("q [[tokens=20 delay=0.1]]")))
        await until(lambda: fake.counts.in_flight == 1)
        service.tell(number)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = (await client.stream(ask("r"))).failure
        assert refused is not None
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert (await running_call).completed is not None
        assert (await service.stopped())[0] == 0
    assert fake.counts.requests == 1


async def test_it_ends_what_does_not_finish_in_time(fake: FakeModelServer) -> None:
    async with service_process(fake.url, drain_seconds="0.2") as service, client_of(service.port) as client:
        calls = [asyncio.create_task(client.stream(ask("q [[first=3600]]"))) for _ in range(20)]
        await until(lambda: fake.counts.in_flight == 20)
        service.tell(signal.SIGTERM)
        failures = [(await call).failure for call in calls]
        assert {failure.reason for failure in failures if failure} == {"DRAINING"}
        assert (await service.stopped())[0] == 0
        await until(lambda: fake.counts.aborted == 20)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "ASKMESH_MODEL_URL"),
        ({"model_url": "ftp://example.org"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http://host:notaport/v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "127.0.0.1:8000/v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http://"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http:///v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http://[::1/v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http://host:0/v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": f"{NOBODY}\r"}, "ASKMESH_MODEL_URL"),
        ({"model_url": f"{NOBODY} "}, "ASKMESH_MODEL_URL"),
        ({"model_url": f" {NOBODY}"}, "ASKMESH_MODEL_URL"),
        ({"model_url": "http://ho st/v1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": f"{NOBODY}?api-version=1"}, "ASKMESH_MODEL_URL"),
        ({"model_url": f"{NOBODY}#top"}, "ASKMESH_MODEL_URL"),
        ({"model_url": f"{NOBODY}/chat/completions"}, "ASKMESH_MODEL_URL"),
        (
            {"model_url": "http://user:secret-pass-word@127.0.0.1:9/v1", "model_api_key": "sk-x"},
            "ASKMESH_MODEL_API_KEY",
        ),
        ({"model_url": NOBODY, "model_api_key": "sk-secret\r"}, "ASKMESH_MODEL_API_KEY"),
        ({"model_url": NOBODY, "model_api_key": "sk-secret\n"}, "ASKMESH_MODEL_API_KEY"),
        ({"model_url": NOBODY, "model_api_key": "sk-secret\x7f"}, "ASKMESH_MODEL_API_KEY"),
        ({"model_url": NOBODY, "model_api_key": " sk-secret "}, "ASKMESH_MODEL_API_KEY"),
        ({"model_url": NOBODY, "model_api_key": "ключ"}, "ASKMESH_MODEL_API_KEY"),
        ({"model_url": NOBODY, "model_limit_field": "max"}, "ASKMESH_MODEL_LIMIT_FIELD"),
        ({"model_url": NOBODY, "llm_port": "70000"}, "ASKMESH_LLM_PORT"),
        ({"model_url": NOBODY, "max_generation": "1"}, "ASKMESH_MAX_GENERATION"),
    ],
)
async def test_wrong_settings_are_one_line_and_exit_2(settings: dict[str, str], named: str) -> None:
    async with running("llm_service", **settings) as process:
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 2
    (line,) = told.decode().splitlines()
    assert line.startswith("llm_service: ")
    assert named in line
    assert "secret" not in line


async def test_a_port_in_use_is_refused() -> None:
    async with (
        service_process(NOBODY) as service,
        running("llm_service", model_url=NOBODY, llm_port=str(service.port)) as second,
    ):
        _, told = await asyncio.wait_for(second.communicate(), PATIENCE)
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1:{service.port}" in told.decode().splitlines()[-1]


async def test_reflection_tells_the_whole_contract_and_the_error_details() -> None:
    async with service_process(NOBODY) as service, client_of(service.port) as client:
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        symbols = [SERVICE, "google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        asked += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        services, *files = [answer async for answer in stub.ServerReflectionInfo(asked)]
    assert {listed.name for listed in services.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    names = {
        descriptor_pb2.FileDescriptorProto.FromString(file).name
        for answer in files
        for file in answer.file_descriptor_response.file_descriptor_proto
    }
    assert {"askmesh/llm/v1/generation_service.proto", "askmesh/llm/v1/generation.proto"} <= names
    assert "google/rpc/error_details.proto" in names


async def test_the_largest_valid_request_is_taken(fake: FakeModelServer) -> None:
    async with service_process(fake.url) as service, client_of(service.port) as client:
        user = generation_pb2.Message(role=generation_pb2.ROLE_USER, content="😀" * 999_000)
        spec = generation_pb2.GenerationSpec(messages=[user], answer_prefix="😀" * 1_000_000)
        answer = await client.stream(spec)
        assert answer.completed is not None
        spec.messages[0].content += "😀" * 1_001
        failure = (await client.stream(spec)).failure
        assert failure is not None
        assert failure.fields == ["spec.messages[0].content", "spec.messages"]
