import shutil
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from askmesh.llm.v1.generation_service_pb2 import GenerateRequest, GenerateResponse, ListModelsRequest
from askmesh.llm.v1.generation_service_pb2_grpc import GenerationServiceStub
from askmesh_client import GenerationClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api_service.http.problems import Code
from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from tests.askmesh_client.replica import Context, running
from tests.certificates import make_certificates, tls_settings
from tests.fakes.model_server import FakeModelServer
from tests.nginx.conftest import OpenEdge
from tests.nginx.test_public import problem_in, request
from tests.nginx.upstream import upstream


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


CALLERS = {
    "nobody": None,
    "a service of this mesh": ("mesh", "worker_service"),
    "an authority of its own": ("another", "worker_service"),
    "the public certificate's authority": ("public", "make_run"),
    "expired": ("mesh", "expired"),
}
"""Who calls by the published port: the folder of the authority and that of the certificate."""


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the mesh, of somebody else, and of the public name; and in that of the mesh a certificate that has expired."""
    folder = tmp_path_factory.mktemp("authorities")
    for name in ("mesh", "another", "public"):
        make_certificates(folder / name)
    expired = folder / "mesh" / "expired"
    shutil.copytree(folder / "mesh" / "worker_service", expired)
    issuer = x509.load_pem_x509_certificate((folder / "mesh" / "authority.pem").read_bytes())
    signer = serialization.load_pem_private_key((folder / "mesh" / "authority.key").read_bytes(), None)
    good = x509.load_pem_x509_certificate((expired / "certificate.pem").read_bytes())
    long_ago = datetime.now(UTC) - timedelta(days=2)
    made = (
        x509.CertificateBuilder()
        .issuer_name(issuer.subject)
        .subject_name(good.subject)
        .public_key(good.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(long_ago)
        .not_valid_after(long_ago + timedelta(days=1))
    )
    for extension in good.extensions:
        made = made.add_extension(extension.value, extension.critical)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    signed = made.sign(signer, hashes.SHA256())
    (expired / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return folder


async def answers(request: GenerateRequest, context: Context) -> GenerateResponse:
    return GenerateResponse(text="Paris")


@pytest.mark.parametrize("name", CALLERS)
async def test_published_grpc_takes_a_certificate_of_its_authority_and_nothing_else(
    open_edge: OpenEdge, authorities: Path, name: str
) -> None:
    shown = CALLERS[name]
    own = authorities.joinpath(*shown) if shown else None
    credentials = grpc.ssl_channel_credentials(
        (authorities / "public" / "authority.pem").read_bytes(),
        (own / "key.pem").read_bytes() if own else None,
        (own / "certificate.pem").read_bytes() if own else None,
    )
    async with running("replica") as replica:
        replica.on_generate = answers
        edge = open_edge(
            llm=[replica.port], certificates=authorities / "public" / "make_run", grpc_callers=authorities / "mesh"
        )
        async with grpc.aio.secure_channel(edge.grpc_public, credentials) as channel:
            stub: Any = GenerationServiceStub(channel)
            if shown == ("mesh", "worker_service"):
                await stub.Generate(GenerateRequest(), timeout=30)
                assert replica.calls == 1
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Generate(GenerateRequest(), timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "show a client certificate" in (refused.value.details() or "")
            assert replica.calls == 0


async def test_published_grpc_does_not_speak_plain_text_and_takes_no_session_of_the_other_ports(
    open_edge: OpenEdge, authorities: Path
) -> None:
    edge = open_edge(certificates=authorities / "public" / "make_run", grpc_callers=authorities / "mesh")
    async with GenerationClient(edge.grpc_public) as in_plain_text:
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await in_plain_text.list_models(timeout=5)
    context = client_context(authorities / "public" / "make_run", maximum_version=ssl.TLSVersion.TLSv1_2)
    with handshake(edge.tls_port, context) as anonymous:
        session = anonymous.session
    port = int(edge.grpc_public.rpartition(":")[2])
    for target, reused in ((edge.tls_port, True), (port, False)):
        connection = socket.create_connection(("127.0.0.1", target), timeout=30)
        with context.wrap_socket(connection, server_hostname="localhost", session=session) as again:
            assert again.session_reused is reused
