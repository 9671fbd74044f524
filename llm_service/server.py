"""Composition root of llm_service: settings to a running gRPC server, and its orderly end."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import grpc
from askmesh.llm.v1 import generation_service_pb2_grpc
from askmesh_client.channel import SERVER_OPTIONS, SERVICE
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from foundation import garbage
from foundation.logs import configure_logging
from foundation.open_files import allow_files
from foundation.settings import (
    GenerationSettings,
    GrpcTlsSettings,
    LlmServiceSettings,
    LogSettings,
    ProcessSettings,
    SettingsError,
    load,
)
from llm_service.event_loop import new_event_loop
from llm_service.generation import Generator
from llm_service.rpc.admission import Admission
from llm_service.rpc.servicer import GenerationServicer
from llm_service.rpc.transport import Transport
from llm_service.upstream.catalogue import ModelCatalogue
from llm_service.upstream.chat_model import StreamingChatModel
from llm_service.upstream.client import ModelServerClient
from llm_service.upstream.outage_log import OutageLog
from llm_service.upstream.sockets import GATHERED, ReadGathering
from llm_service.upstream.unsupported_fields import Adaptation

logger = logging.getLogger(__name__)

# Calls beyond the generations: refused ones, health, reflection, lists of models.
_SPARE_STREAMS: Final = 1_000
_SPARE_FILES: Final = 256
_TRACING: Final = ("LANGSMITH_TRACING", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
# The statuses of calls that have just ended get out in this time. Health watches never end, and are cut after it.
_LAST_WORDS_SECONDS: Final = 0.5
_CONNECTION_SECONDS: Final = 10
_HANDSHAKE_SECONDS: Final = 10
_MAX_CONNECTIONS: Final = 4_096


class LlmServer:
    """A running llm_service; an async context manager, within which it takes calls.

    Health is SERVING until the server drains, also while the model server is down. All replicas share that server: a
    client that saw NOT_SERVING could not tell a model server that is down from an llm_service that is down. Each call
    fails with MODEL_SERVER_UNAVAILABLE instead, and says when to come back.
    """

    def __init__(
        self,
        settings: LlmServiceSettings,
        generation: GenerationSettings,
        tls: GrpcTlsSettings | None = None,
        *,
        gathering: ReadGathering = GATHERED,
    ) -> None:
        """Raises SettingsError if ASKMESH_MODEL_URL is missing or is no URL, and as ``Transport`` does."""
        if not settings.model_url:
            raise SettingsError("ASKMESH_MODEL_URL: must be set to an OpenAI-compatible server, as http://host:8000/v1")
        key = settings.model_api_key
        try:
            self._model_server = ModelServerClient(
                settings.model_url, key.get_secret_value() if key else None, gathering=gathering
            )
        except ValueError:
            raise SettingsError("ASKMESH_MODEL_URL: must be a URL, as http://host:8000/v1") from None
        self._transport = Transport(settings, tls or GrpcTlsSettings())
        self._settings = settings
        self._default_model = generation.model_name
        self._admission = Admission(settings.max_generations)
        self._health = health.aio.HealthServicer()
        self._running = AsyncExitStack()
        self.port = 0
        """The port in use, once entered."""

    @property
    def health_port(self) -> int | None:
        """The port for probes in use, once entered; None where there is none."""
        return self._transport.health_port

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._model_server)
            server = self._server()
            self.port = self._transport.listen(server)
            await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            for listening in (server, self._transport.health_server(self._health)):
                if listening is not None:
                    await listening.start()
                    stack.push_async_callback(listening.stop, _LAST_WORDS_SECONDS)
            self._running = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    async def drain(self, seconds: float) -> None:
        """Turn health to NOT_SERVING, refuse new generations, and end those in flight after so many seconds."""
        await self._health.enter_graceful_shutdown()
        await self._admission.drain(seconds)

    def _server(self) -> grpc.aio.Server:
        streams = self._settings.max_generations + _SPARE_STREAMS
        server = grpc.aio.server(
            interceptors=self._transport.interceptors,
            options=[
                *SERVER_OPTIONS,
                # Otherwise a second process could take the same port without an error, and would get part of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", streams),
                # Each caller keeps a few. A connection is closed that says nothing or does not finish its handshake.
                ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1_000),
                # grpc.aio takes up one call a turn of its loop. Calls that wait for it in a burst or under full load
                # are cancelled after 30 s, or refused beyond 1,000 of them, by default: their own deadlines decide.
                ("grpc.server_max_unrequested_time_in_server", 24 * 3600),
                ("grpc.server.max_pending_requests", streams),
                ("grpc.server.max_pending_requests_hard_limit", streams),
                ("grpc.max_send_message_length", -1),
                # A client looks up a name again only when a connection ends. Connections therefore end in good order,
                # and clients find replicas that were added. Calls in flight go on until they end.
                ("grpc.max_connection_age_ms", _CONNECTION_SECONDS * 1_000),
            ],
        )
        continues = {"auto": None, "yes": True, "no": False}[self._settings.model_continues]
        catalogue = ModelCatalogue(
            self._model_server,
            self._default_model,
            continues=continues,
            names=self._settings.names,
            revision=self._settings.model_revision,
        )
        adaptation = Adaptation(
            stream_options=self._settings.model_stream_options == "auto", limit_field=self._settings.model_limit_field
        )
        chat_model = StreamingChatModel(server=self._model_server, adaptation=adaptation)
        outages = OutageLog(self._model_server.host, asyncio.get_running_loop().time)
        servicer = GenerationServicer(Generator(chat_model, catalogue), catalogue, self._admission, outages)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server


async def serve(server: LlmServer, drain_seconds: float) -> None:
    """Take calls until SIGTERM or SIGINT, then drain. Raises SettingsError where it cannot listen."""
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    async with server:
        garbage.settle()
        logger.info("listening on port %d", server.port)
        await told_to_stop.wait()
        logger.info("draining for at most %g s", drain_seconds)
        await server.drain(drain_seconds)
    logger.info("stopped")


def main() -> int:
    """Run llm_service until SIGTERM or SIGINT. Returns the exit status: 2 where the settings are wrong."""
    try:
        settings, process = load(LlmServiceSettings), load(ProcessSettings)
        configure_logging("llm_service", load(LogSettings))
        if any(os.environ.get(name, "").lower() == "true" for name in _TRACING):
            logger.warning(
                "LangChain's tracing is on: EVERY QUESTION AND ANSWER IS SENT TO LANGSMITH; unset %s", _TRACING
            )
        # Each generation has a connection to the model server.
        allow_files(settings.max_generations + _SPARE_FILES, "ASKMESH_MAX_GENERATIONS")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            server = LlmServer(settings, load(GenerationSettings), load(GrpcTlsSettings))
            runner.run(serve(server, process.drain_seconds))
    except SettingsError as error:
        sys.stderr.write(f"llm_service: {error}\n")
        return 2
    return 0
