"""Says how a worker is to whoever asks by grpc.health.v1, as Kubernetes and container healthchecks do.

The empty service name is SERVING while the event loop answers: a liveness probe. ``ready`` is SERVING from the moment
at which the worker holds a lease and takes hints until it is told to stop: a readiness probe. Without a broker it is
SERVING 5 s later, since the worker answers without hints.
"""

import asyncio
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from foundation.settings import SettingsError, WorkerSettings

READY: Final = "ready"


class HealthServer:
    """Answers on its port while it runs; without ASKMESH_WORKER_HEALTH_PORT it has none."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._host, self._port = settings.worker_health_host, settings.worker_health_port
        self._statuses = health.aio.HealthServicer()

    async def run(self) -> None:
        """Answer until cancelled. Raises SettingsError where it cannot listen."""
        if self._port is None:
            return
        await self._statuses.set(READY, health_pb2.HealthCheckResponse.NOT_SERVING)
        # Otherwise a second process takes the same port, and gets part of the calls, without an error.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._statuses, server)
        address = f"{self._host}:{self._port}"
        try:
            server.add_insecure_port(address)
        except RuntimeError:
            raise SettingsError(
                "ASKMESH_WORKER_HEALTH_HOST, ASKMESH_WORKER_HEALTH_PORT:"
                f" cannot listen on {address}: it is in use or not ours"
            ) from None
        await server.start()
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop(None)

    async def set_ready(self, *, ready: bool) -> None:
        """What the readiness probe is told from now on."""
        statuses = health_pb2.HealthCheckResponse
        await self._statuses.set(READY, statuses.SERVING if ready else statuses.NOT_SERVING)
