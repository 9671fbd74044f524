"""Where the replicas of llm_service are, and how the connections to them behave.

Figures in the comments were seen with grpcio 1.85.
"""

import json
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import grpc.aio
from askmesh.llm.v1 import generation_service_pb2

from askmesh_client.tls import Certificates, Pem, TlsFiles

SERVICE: Final = generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
"""The service's name: in gRPC paths, and what its standard health service answers for."""

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Largest request. The largest that the contract allows is about 8 MB: two texts of 1,000,000 characters of 4 bytes."""

_KEEPALIVE_MS: Final = 20_000
_PING_TIMEOUT_MS: Final = 10_000
_CONNECTION_OPTIONS: Final = (
    # These notice within 30 s a peer that vanished without a word (host or network down); otherwise only a call's
    # deadline would. ping_timeout is what counts: with keepalive_timeout alone a frozen peer was noticed 60 s later.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    # A side that only listens may send pings, too: the first text of a stream can take a minute.
    ("grpc.http2.max_pings_without_data", 0),
    # BadRequest can name many fields. Beyond the default of 8 KiB the error itself is refused, with
    # RESOURCE_EXHAUSTED, and would look like an overload.
    ("grpc.max_metadata_size", 64 * 1024),
)

SERVER_OPTIONS: Final = (
    *_CONNECTION_OPTIONS,
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    # By default a third ping within 5 silent minutes cuts every stream of the connection ("Too many pings").
    # Clients in other languages may ping without a call in flight.
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""Options with which a server of the contract serves clients that connect as this module does."""

_SERVICE_CONFIG: Final = {
    # The default, pick_first, sends everything to one replica.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A replica whose health service says NOT_SERVING for this service, as in a drain, gets no new calls.
    # One that does not know the name counts as NOT_SERVING; one without a health service, as serving.
    "healthCheckConfig": {"serviceName": SERVICE},
    # Generate and GenerateStream have no retryPolicy on purpose: gRPC cannot know whether the model has begun, so
    # only the caller may ask again. (gRPC still sends a call again that no server has seen.)
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": "ListModels"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

CHANNEL_OPTIONS: Final = (
    *_CONNECTION_OPTIONS,
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # An answer is as long as max_output_tokens lets it be. The default of 4 MiB would turn a longer one into
    # RESOURCE_EXHAUSTED, which would look like an overload.
    ("grpc.max_receive_message_length", -1),
    # A replica that restarts is tried again each second at the latest (default: up to 2 minutes) ...
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # ... one attempt takes at most 5 s (default: 20 s), and a name is looked up again each second (default: 30 s),
    # because a replaced container has a new address.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # The mesh is inside: http_proxy in the environment is for the way out.
    ("grpc.enable_http_proxy", 0),
)

_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def target_uri(targets: str) -> str:
    """The gRPC target of one ``host:port``, or of several with commas between, among which calls take turns.

    A host is a name, an IPv4 address, or an IPv6 address in brackets. A name stands alone: gRPC connects to all
    addresses that it resolves to. Several targets are addresses of one kind, all IPv4 or all IPv6.

    Raises ValueError, which says what is wrong and how to write it.
    """
    places = [_place(target.strip()) for target in targets.split(",")]
    kinds = {type(host) for host, _ in places}
    if kinds == {str} and len(places) == 1:
        return f"dns:///{places[0][0]}:{places[0][1]}"
    if kinds == {IPv4Address}:
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in places)
    if kinds == {IPv6Address}:
        return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in places)
    raise ValueError(
        f"{targets!r}: several targets must be all IPv4 or all IPv6 addresses;"
        " for names, give one name that resolves to every replica"
    )


def _place(target: str) -> tuple[str | IPv4Address | IPv6Address, int]:
    match = _HOST_AND_PORT.fullmatch(target)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise ValueError(f"{target!r} must be host:port, for example 127.0.0.1:50051, llm:50051 or [::1]:50051")
    if match["ipv6"] is not None:
        return IPv6Address(match["ipv6"]), int(match["port"])
    try:
        return ip_address(match["host"]), int(match["port"])
    except ValueError:
        return match["host"], int(match["port"])


def check_connection(targets: str, tls: TlsFiles | None = None, server_name: str = "") -> None:
    """Raise ValueError, or CertificatesError, which is one, where a client could not be made with these."""
    target_uri(targets)
    if tls is not None:
        Certificates(tls)
        _check_name(targets, server_name)


def _check_name(targets: str, server_name: str) -> None:
    if not server_name and "," in targets:
        raise ValueError(f"{targets!r}: with TLS and several targets, the name in their certificates has to be given")


def open_channel(targets: str, certificates: Pem | None = None, server_name: str = "") -> grpc.aio.Channel:
    """A channel to the targets, as ``target_uri`` reads them; it connects with the first call.

    With ``certificates`` both sides prove who they are. The server's certificate must bear the host of the target, or
    ``server_name`` where that is set, as it must be where the targets are several.

    Open it in the event loop that will use it, and after any fork. Raises ValueError as ``target_uri`` does.
    """
    uri = target_uri(targets)
    if certificates is None:
        return grpc.aio.insecure_channel(uri, options=CHANNEL_OPTIONS)
    _check_name(targets, server_name)
    named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    credentials = grpc.ssl_channel_credentials(certificates.authority, certificates.key, certificates.certificate)
    return grpc.aio.secure_channel(uri, credentials, options=(*CHANNEL_OPTIONS, *named))
