"""Who may reach the server: mutual TLS, the names of callers, and the port for probes."""

import logging
from collections.abc import Awaitable
from typing import Any, Final

import grpc
from askmesh_client import Certificates, CertificatesError, TlsFiles
from askmesh_client.tls import Pem
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]

from foundation.loopback import is_loopback
from foundation.settings import GrpcTlsSettings, LlmServiceSettings, SettingsError
from llm_service.rpc.interceptors import Context, Handler, RefusingInterceptor, refusing
from llm_service.rpc.unreadable_requests import UnreadableRequestInterceptor

logger = logging.getLogger(__name__)

_HEALTH: Final = f"/{health.SERVICE_NAME}/"
# As the certificate's subjectAltName gives them; the common name counts for nothing.
_NAMES: Final = ("peer_dns", "peer_uri")


class Transport:
    """How the server listens, by its settings."""

    def __init__(self, settings: LlmServiceSettings, tls: GrpcTlsSettings) -> None:
        """Raises SettingsError where the certificates cannot be used, or plain text would leave this machine."""
        self._host, self._port = settings.llm_host, settings.llm_port
        self._health_host, self._health_port = settings.llm_health_host, settings.llm_health_port
        self._certificates = certificates(tls)
        self.health_port: int | None = None
        """The one in use, once there is a health server."""
        callers = frozenset(name.strip() for name in settings.llm_callers.split(",")) - {""}
        self.interceptors: list[grpc.aio.ServerInterceptor] = [UnreadableRequestInterceptor()]
        if self._certificates is not None and callers != {"*"}:
            self.interceptors.insert(0, CallerInterceptor(callers))
        if self._certificates is None and not settings.llm_plain_text and not is_loopback(self._host):
            raise SettingsError(
                f"ASKMESH_LLM_HOST: {self._host} is reached from other machines, and there is no TLS: set"
                " ASKMESH_GRPC_CERTIFICATE_FILE, ASKMESH_GRPC_KEY_FILE and ASKMESH_GRPC_AUTHORITY_FILE (`askmesh"
                " certificates make` makes some), or ASKMESH_LLM_PLAIN_TEXT=true where the network lets nobody else in"
            )

    def listen(self, server: grpc.aio.Server) -> int:
        """Open the server's port and return its number. Raises SettingsError."""
        address = f"{self._host}:{self._port}"
        try:
            if self._certificates is None:
                return server.add_insecure_port(address)
            # gRPC's C core calls the fetcher and does not keep it alive.
            self._credentials = _server_credentials(self._certificates)
            return server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise SettingsError(
                f"ASKMESH_LLM_HOST, ASKMESH_LLM_PORT: cannot listen on {address}: it is in use or not ours"
            ) from None

    def health_server(self, servicer: health.aio.HealthServicer) -> grpc.aio.Server | None:
        """A server that is not started, for probes, which have no certificate. None where no port is set for it."""
        if self._health_port is None:
            return None
        server = grpc.aio.server(interceptors=[UnreadableRequestInterceptor()], options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        address = f"{self._health_host}:{self._health_port}"
        try:
            self.health_port = server.add_insecure_port(address)
        except RuntimeError:
            raise SettingsError(
                f"ASKMESH_LLM_HEALTH_HOST, ASKMESH_LLM_HEALTH_PORT: cannot listen on {address}:"
                " it is in use or not ours"
            ) from None
        return server


class CallerInterceptor(RefusingInterceptor):
    """Refuses callers with PERMISSION_DENIED whose certificate bears none of the names. Health is for everybody."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names
        self._logged: set[frozenset[str]] = set()

    def guarded(self, method: str, handler: Handler) -> Handler:
        """The handler behind the check of names; health's handler as it is."""
        return handler if method.startswith(_HEALTH) else refusing(handler, self._refusal)

    def _refusal(self, _: Any, context: Context) -> Awaitable[None] | None:
        properties = context.auth_context()
        names = frozenset(name.decode() for kind in _NAMES for name in properties.get(kind, ()))
        if names & self._names:
            return None
        if names not in self._logged and len(self._logged) < 100:
            self._logged.add(names)
            logger.warning("a caller is refused whose certificate names %s", ", ".join(sorted(names)) or "nobody")
        return context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            "your certificate bears no name that ASKMESH_LLM_CALLERS of llm_service lists",
        )


def certificates(settings: GrpcTlsSettings) -> Certificates | None:
    """Those that the settings name; None without TLS. Raises SettingsError."""
    try:
        return Certificates(TlsFiles(*settings.files)) if settings.files else None
    except CertificatesError as error:
        raise SettingsError(f"ASKMESH_GRPC_*_FILE: {error}") from None


def _server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Called for each connection, in a thread of gRPC's."""
        pem = certificates.renewed()
        return None if pem is None else _configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.pem),
        fetch,  # type: ignore[arg-type] # None for no change, as its documentation says
        require_client_authentication=True,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authority)
