"""Mutual TLS between a real client and a real server, with certificates as the command makes them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from askmesh.llm.v1.generation_service_pb2 import GenerateRequest, GenerateStreamRequest, ListModelsRequest, TextDelta
from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceStub
from askmesh_client import AccessDeniedError, GenerationClient, TlsFiles, UnavailableError
from askmesh_client.channel import SERVICE
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from foundation.settings import GenerationSettings, GrpcTlsSettings, LlmServiceSettings, SettingsError
from llm_service.server import LlmServer
from tests.askmesh_client.replica import eventually
from tests.certificates import make_certificates, tls_files, tls_settings
from tests.fakes.model_server import FakeModelServer, expected_answer
from tests.llm_service.conftest import ask

HOST = "127.0.0.1"
RUBBISH = b"\xff\xff"
"""No message of any type."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_certificates(tmp_path / "certificates")


@asynccontextmanager
async def serving(tls: GrpcTlsSettings | None, **settings: Any) -> AsyncIterator[LlmServer]:
    async with (
        FakeModelServer() as fake,
        LlmServer(LlmServiceSettings(llm_port=0, model_url=fake.url, **settings), GenerationSettings(), tls) as server,
    ):
        yield server


@asynccontextmanager
async def channel_of(port: int, files: TlsFiles) -> AsyncIterator[grpc.aio.Channel]:
    authority, certificate, key = (file.read_bytes() for file in files)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials) as channel:
        yield channel


async def presented(port: int, files: TlsFiles) -> bytes:
    """The certificate that the server shows to a new connection."""
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname="llm_service")
    try:
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.transport.abort()


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("target", "name"),
    [("127.0.0.1:{0}", ""), ("localhost:{0}", ""), ("127.0.0.1:{0},127.0.0.1:{0}", "llm_service")],
)
async def test_both_sides_prove_who_they_are(folder: Path, target: str, name: str) -> None:
    async with (
        serving(tls_settings(folder, "llm_service")) as server,
        GenerationClient(
            target.format(server.port), tls=tls_files(folder, "worker_service"), server_name=name
        ) as client,
    ):
        question = "What is the capital of France?"
        assert (await client.generate(ask(question))).text == expected_answer(question)
        deltas = [event.text async for event in client.stream(ask(question)) if isinstance(event, TextDelta)]
        assert "".join(deltas) == expected_answer(question)
        assert await client.list_models()


@pytest.mark.loopback
async def test_a_server_of_another_name_is_not_asked(folder: Path) -> None:
    async with (
        serving(tls_settings(folder, "llm_service")) as server,
        GenerationClient(
            f"{HOST}:{server.port}", tls=tls_files(folder, "worker_service"), server_name="api_service"
        ) as client,
    ):
        with pytest.raises(UnavailableError):
            await client.generate(ask("hello"))


@pytest.mark.loopback
async def test_who_has_no_certificate_of_the_authority_gets_no_connection(folder: Path, tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path / "foreign")
    forged = tls_files(foreign, "worker_service")._replace(authority=folder / "authority.pem")
    async with (
        serving(tls_settings(folder, "llm_service"), llm_callers="*") as server,
        GenerationClient(f"{HOST}:{server.port}", tls=forged) as stranger,
        GenerationClient(f"{HOST}:{server.port}") as in_plain_text,
        grpc.aio.secure_channel(
            f"{HOST}:{server.port}", grpc.ssl_channel_credentials((folder / "authority.pem").read_bytes())
        ) as anonymous,
    ):
        for client in (stranger, in_plain_text):
            with pytest.raises(UnavailableError):
                await client.generate(ask("hello"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_pb2_grpc.HealthStub(anonymous).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.loopback
async def test_a_caller_who_is_not_listed_gets_health_and_nothing_else(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(tls_settings(folder, "llm_service")) as server,
        channel_of(server.port, tls_files(folder, "nginx")) as channel,
        GenerationClient(f"{HOST}:{server.port}", tls=tls_files(folder, "nginx")) as client,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        checked = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = GenerationServiceStub(channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        calls = {
            "Generate": stub.Generate(GenerateRequest(spec=ask("hello")), timeout=30),
            "GenerateStream": stub.GenerateStream(GenerateStreamRequest(spec=ask("hello")), timeout=30),
            "ListModels": stub.ListModels(ListModelsRequest(), timeout=30),
            "ServerReflectionInfo": reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([listing]), timeout=30
            ),
        }
        for name, call in calls.items():
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED, name
            assert "ASKMESH_LLM_CALLERS" in await call.details()
        with pytest.raises(AccessDeniedError):
            await client.generate(ask("hello"))
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert told == ["a caller is refused whose certificate names nginx"]


@pytest.mark.loopback
@pytest.mark.parametrize(
    "path",
    [
        f"/{SERVICE}/Generate",
        f"/{SERVICE}/GenerateStream",
        f"/{SERVICE}/ListModels",
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",
    ],
)
async def test_a_stranger_who_sends_rubbish_is_told_no_more_than_another(
    folder: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tls_settings(folder, "llm_service")) as server:
        told = {}
        for name in ("nginx", "worker_service"):
            async with channel_of(server.port, tls_files(folder, name)) as channel:
                # Of a stream, the first answer does: nothing comes before the refusal.
                call: Any = channel.unary_unary(path)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(RUBBISH, timeout=30)
            told[name] = refused.value
    assert told["nginx"].code() is grpc.StatusCode.PERMISSION_DENIED
    assert "ASKMESH_LLM_CALLERS" in (told["nginx"].details() or "")
    assert "request" not in (told["nginx"].details() or "")
    assert not told["nginx"].trailing_metadata()
    # Those who may call learn what is wrong; gRPC itself answers for reflection, which takes a stream of requests.
    readable = path.startswith(f"/{SERVICE}/")
    expected = grpc.StatusCode.INVALID_ARGUMENT if readable else grpc.StatusCode.UNKNOWN
    assert told["worker_service"].code() is expected
    assert not [record for record in caplog.records if record.exc_info and readable]


@pytest.mark.loopback
async def test_health_tells_a_stranger_too_that_its_request_is_rubbish(folder: Path) -> None:
    async with (
        serving(tls_settings(folder, "llm_service")) as server,
        channel_of(server.port, tls_files(folder, "nginx")) as channel,
    ):
        check: Any = channel.unary_unary(f"/{health.SERVICE_NAME}/Check")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(RUBBISH, timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.loopback
@pytest.mark.parametrize("callers", ["nginx", "other, nginx", "*"])
async def test_the_list_of_callers_is_a_setting(folder: Path, callers: str) -> None:
    async with (
        serving(tls_settings(folder, "llm_service"), llm_callers=callers) as server,
        channel_of(server.port, tls_files(folder, "nginx")) as channel,
    ):
        stub: Any = GenerationServiceStub(channel)
        assert (await stub.ListModels(ListModelsRequest(), timeout=30)).models
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=30
        )
        assert SERVICE in str(await reflected.read())


@pytest.mark.loopback
async def test_probes_without_a_certificate_have_a_port_of_their_own(folder: Path) -> None:
    async with (
        serving(tls_settings(folder, "llm_service"), llm_health_port=0) as server,
        grpc.aio.insecure_channel(f"{HOST}:{server.health_port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await health.Check(request, timeout=30)).status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = GenerationServiceStub(channel)
        assert await stub.ListModels(ListModelsRequest(), timeout=30).code() is grpc.StatusCode.UNIMPLEMENTED
        await server.drain(0)
        assert (await health.Check(request, timeout=30)).status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.loopback
async def test_certificates_and_authority_are_replaced_under_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("askmesh_client.tls.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("llm_service.server._CONNECTION_SECONDS", 1)
    other = make_certificates(tmp_path / "other")
    authorities = {key: (source / "authority.pem").read_bytes() for key, source in (("old", folder), ("new", other))}
    sides = ("llm_service", "worker_service")
    former_caller = {file.name: file.read_bytes() for file in tls_files(folder, "worker_service")}
    answered = 0
    stop = asyncio.Event()

    def trust(pem: bytes) -> None:
        for side in sides:
            (folder / side / "authority.pem").write_bytes(pem)

    async def keep_asking(client: GenerationClient) -> None:
        nonlocal answered
        while not stop.is_set():
            await client.generate(ask(f"question {answered}"))
            answered += 1

    async def further(count: int) -> None:
        aim = answered + count

        async def reached() -> bool:
            assert not any(asker.done() for asker in askers), "a call failed"
            return answered >= aim

        await eventually(reached)

    async with (
        serving(tls_settings(folder, "llm_service")) as server,
        GenerationClient(f"{HOST}:{server.port}", tls=tls_files(folder, "worker_service")) as client,
    ):
        long_stream = client.stream(ask("long [[tokens=40 delay=0.1]]"))
        await anext(long_stream)
        askers = [asyncio.create_task(keep_asking(client)) for _ in range(8)]
        await further(50)
        before = await presented(server.port, tls_files(folder, "worker_service"))
        # As an operator changes authorities: trust both, then take new certificates, then trust the new one alone.
        trust(authorities["old"] + authorities["new"])
        await further(50)
        await asyncio.sleep(1.2)  # longer than both sides' looks and any connection of before
        for side in sides:
            for file in ("key.pem", "certificate.pem"):
                (folder / side / file).write_bytes((other / side / file).read_bytes())
                await further(5)

        async def server_shows_another() -> bool:
            return await presented(server.port, tls_files(folder, "worker_service")) != before

        await eventually(server_shows_another)
        await asyncio.sleep(1.2)
        trust(authorities["new"])
        await asyncio.sleep(0.1)
        await further(200)
        stop.set()
        await asyncio.gather(*askers)
        rest = [event.text async for event in long_stream if isinstance(event, TextDelta)]
        assert len(rest) == 40, "a stream outlives the certificates that it began with"
        for name, content in former_caller.items():
            (tmp_path / name).write_bytes(content)
        former = TlsFiles(other / "authority.pem", tmp_path / "certificate.pem", tmp_path / "key.pem")
        async with GenerationClient(f"{HOST}:{server.port}", tls=former) as revoked:
            with pytest.raises(UnavailableError):
                await revoked.generate(ask("hello"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "llm_service"])
def test_plain_text_stays_on_this_machine_unless_a_setting_says_otherwise(host: str, folder: Path) -> None:
    settings = LlmServiceSettings(llm_host=host, model_url="http://127.0.0.1:1/v1")
    with pytest.raises(SettingsError, match="ASKMESH_LLM_PLAIN_TEXT=true"):
        LlmServer(settings, GenerationSettings())
    LlmServer(settings.model_copy(update={"llm_plain_text": True}), GenerationSettings())
    LlmServer(settings, GenerationSettings(), tls_settings(folder, "llm_service"))


def test_certificates_that_cannot_be_used_stop_the_start(folder: Path) -> None:
    (folder / "llm_service" / "key.pem").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"llm_service/key\.pem are not a certificate and its key"):
        LlmServer(
            LlmServiceSettings(model_url="http://127.0.0.1:1/v1"),
            GenerationSettings(),
            tls_settings(folder, "llm_service"),
        )
