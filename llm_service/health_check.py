"""``python -m llm_service.health_check``: exit status 0 if the service on this machine takes calls, for containers."""

import sys

import grpc
from askmesh_client.channel import SERVICE
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

from foundation.settings import LlmServiceSettings, load


def main() -> int:
    """Ask the standard health service."""
    address = f"127.0.0.1:{load(LlmServiceSettings).llm_port}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            health = HealthStub(channel).Check(HealthCheckRequest(service=SERVICE), timeout=3)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}\n")
            return 1
    return int(health.status != HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main())
