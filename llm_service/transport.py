"""Who may reach the server: mutual TLS, the names of callers, and the port for probes."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
from askmesh_client import Certificates, CertificatesError, TlsFiles
from askmesh_client.tls import Pem
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]

from foundation.loopback import is_loopback
from foundation.settings import GrpcTlsSettings, LlmServiceSettings, SettingsError
from llm_service.unreadable import UnreadableRequests

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Behaviour = Callable[[Any, Context], Any]

_HEALTH: Final = f"/{health.SERVICE_NAME}/"
_BEHAVIOURS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
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
        self.interceptors: list[grpc.aio.ServerInterceptor] = [UnreadableRequests()]
        if self._certificates is not None and callers != {"*"}:
            self.interceptors.insert(0, Callers(callers))
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
            # The server's C part calls its fetcher, and does not keep it alive.
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
        server = grpc.aio.server(interceptors=[UnreadableRequests()], options=[("grpc.so_reuseport", 0)])
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


class Callers(grpc.aio.ServerInterceptor):
    """Refuses callers whose certificate bears none of the names, with PERMISSION_DENIED. Health is for everybody."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._guarded: dict[str, Handler] = {}
        self._told: set[frozenset[str]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """As grpc.aio calls it, once a call."""
        method = str(handler_call_details.method)
        if method in self._guarded:
            return self._guarded[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_HEALTH):
            return handler
        kind = next(kind for kind in _BEHAVIOURS if getattr(handler, kind) is not None)
        replace: Any = handler._replace  # type: ignore[attr-defined] # a named tuple, which the stubs do not say
        self._guarded[method] = replace(**{kind: self._guard(getattr(handler, kind))})
        return self._guarded[method]

    def _guard(self, behaviour: Behaviour) -> Behaviour:
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
                await self._refuse_strangers(context)
                async for response in behaviour(request, context):
                    yield response

            return stream

        async def answer(request: Any, context: Context) -> Any:
            await self._refuse_strangers(context)
            return await behaviour(request, context)

        return answer

    async def _refuse_strangers(self, context: Context) -> None:
        properties = context.auth_context()
        names = frozenset(name.decode() for kind in _NAMES for name in properties.get(kind, ()))
        if names & self._names:
            return
        if names not in self._told and len(self._told) < 100:
            self._told.add(names)
            logger.warning("a caller is refused whose certificate names %s", ", ".join(sorted(names)) or "nobody")
        await context.abort(
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
