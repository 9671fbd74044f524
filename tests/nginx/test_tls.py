import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from askmesh.llm.v1.generation_service_pb2 import ListModelsRequest
from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceStub
from askmesh_client import GenerationClient

from api_service.problems import Code
from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from tests.certificates import make_certificates, tls_settings
from tests.fakes.model_server import FakeModelServer
from tests.nginx.conftest import OpenEdge
from tests.nginx.edge import needs_nginx
from tests.nginx.test_public import problem_in, request
from tests.nginx.upstream import upstream

pytestmark = [pytest.mark.integration, needs_nginx]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def public(folder: Path) -> Path:
    """Of a certificate for localhost, which stands in for the one of a public name."""
    return folder / "make_run"


def client_context(public: Path, **limits: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(public / "authority.pem"))
    for name, version in limits.items():
        setattr(context, name, version)
    return context


def handshake(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30), server_hostname="localhost")


async def test_https_reaches_a_replica_by_http_1_and_2(open_edge: OpenEdge, public: Path) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port], certificates=public)
        reply, body = await request(f"https://localhost:{edge.tls_port}/livez", ssl=client_context(public))
        assert (reply.status, body) == (200, b"{}")
        assert "Strict-Transport-Security" not in reply.headers
        assert b"x-forwarded-proto: https\r\n" in replica.requests[0].lower()
    context = client_context(public)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with handshake(edge.tls_port, context) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() == "TLSv1.3"


async def test_strict_transport_security_is_a_setting(open_edge: OpenEdge, public: Path) -> None:
    edge = open_edge(certificates=public, NGINX_HSTS="max-age=63072000")
    for path in ("/livez", "/.problem"):
        reply, _ = await request(f"https://localhost:{edge.tls_port}{path}", ssl=client_context(public))
        assert reply.status >= 400
        assert reply.headers["Strict-Transport-Security"] == "max-age=63072000"
    reply, _ = await request(f"{edge.url}/livez", allow_redirects=False)
    assert "Strict-Transport-Security" not in reply.headers, "without TLS it counts for nothing"


async def test_http_is_sent_on_to_https(open_edge: OpenEdge, public: Path) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port], certificates=public)
        for method in ("GET", "HEAD"):
            reply, _ = await request(f"http://localhost:{edge.port}/api/answer/1?wait=3", method, allow_redirects=False)
            assert reply.status == 308
            assert reply.headers["Location"] == f"https://localhost:{edge.tls_port}/api/answer/1?wait=3"
        assert replica.requests == []


async def test_the_usual_port_is_not_named(open_edge: OpenEdge, public: Path) -> None:
    edge = open_edge(certificates=public, NGINX_HTTPS_PORT="443")
    reply, _ = await request(f"http://localhost:{edge.port}/", allow_redirects=False)
    assert reply.headers["Location"] == "https://localhost/"


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("POST", {"json": {"question_text": "secret"}}),
        ("POST", {}),
        ("GET", {"headers": {"Authorization": "Bearer secret"}}),
        ("GET", {"headers": {"X-API-Key": "secret"}}),
        ("DELETE", {}),
    ],
)
async def test_what_was_sent_without_tls_does_not_work(
    open_edge: OpenEdge, public: Path, method: str, how: dict[str, Any]
) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port], certificates=public)
        reply, body = await request(f"{edge.url}/api/ask", method, allow_redirects=False, **how)
        problem = problem_in(reply, body)
        assert (problem.status, problem.code) == (403, Code.HTTP_ERROR)
        assert "Send it by HTTPS" in problem.detail
        assert replica.requests == []


def test_old_protocols_and_weak_ciphers_are_refused(open_edge: OpenEdge, public: Path) -> None:
    edge = open_edge(certificates=public)
    context = client_context(public, maximum_version=ssl.TLSVersion.TLSv1_2)
    with handshake(edge.tls_port, context) as connection:
        cipher = connection.cipher()
        assert connection.version() == "TLSv1.2"
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")
        assert "GCM" in cipher[0] or "POLY1305" in cipher[0]
    for ciphers in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"):
        context = client_context(public, maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            handshake(edge.tls_port, context)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old = client_context(public, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version|no.protocols.available|internal.error"):
        handshake(edge.tls_port, old)


async def test_grpc_by_tls_to_an_llm_service_by_mutual_tls(open_edge: OpenEdge, folder: Path, public: Path) -> None:
    async with (
        FakeModelServer() as fake,
        LlmServer(
            LlmServiceSettings(llm_port=0, model_url=fake.url, llm_callers="worker_service,nginx"),
            GenerationSettings(),
            tls_settings(folder, "llm_service"),
        ) as server,
    ):
        for file in (folder / "nginx").iterdir():
            file.chmod(0o644)  # nginx reads them as the user that it becomes
        edge = open_edge(llm=[server.port], certificates=public, grpc_certificates=folder / "nginx")
        credentials = grpc.ssl_channel_credentials((public / "authority.pem").read_bytes())
        async with grpc.aio.secure_channel(edge.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
            stub: Any = GenerationServiceStub(channel)
            assert (await stub.ListModels(ListModelsRequest(), timeout=30)).models
        async with GenerationClient(edge.grpc) as in_plain_text:
            with pytest.raises(Exception, match="UNAVAILABLE"):
                await in_plain_text.list_models(timeout=5)


async def test_an_address_may_hold_so_many_connections_and_no_more(open_edge: OpenEdge) -> None:
    async def never(_: object) -> None:
        return None

    async with upstream(never) as replica, aiohttp.ClientSession() as session:
        edge = open_edge(api=[replica.port], NGINX_CONNECTIONS_PER_ADDRESS="3")
        waiting = [asyncio.create_task(session.get(f"{edge.url}/held")) for _ in range(3)]
        async with asyncio.timeout(30):
            while len(replica.requests) < 3:
                await asyncio.sleep(0.01)
        reply, body = await request(f"{edge.url}/one-more")
        problem = problem_in(reply, body)
        assert (problem.status, problem.code) == (429, Code.HTTP_ERROR)
        assert len(replica.requests) == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
