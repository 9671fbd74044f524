"""``python -m foundation.health_check HOST:PORT SERVICE``: exit status 0 if SERVICE is SERVING there, for containers.

It asks the standard gRPC health service, in 3 s at most.
"""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]


def main(address: str, service: str) -> int:
    """Exit status: 0 if SERVING, else 1."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            health = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=3)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}\n")
            return 1
    return int(health.status != HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
