"""The URLs of Redis and of Celery's broker: what redis-py or kombu would stumble over is refused before they do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

_TLS_FILES: Final = frozenset(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
_CERTIFICATE_WANTED: Final = ("required", "CERT_REQUIRED")
_NUMBERS: Final = frozenset(
    (
        "db",
        "socket_timeout",
        "socket_connect_timeout",
        "health_check_interval",
        "max_connections",
        "timeout",
        "protocol",
    )
)
_OF_REDIS: Final = _NUMBERS | {"username", "password", "client_name", "socket_keepalive"}
_OF_BROKER: Final[Mapping[str, frozenset[str]]] = {
    "amqp": frozenset(),
    "amqps": _TLS_FILES | {"ssl_cert_reqs"},
    "redis": frozenset(),
    "rediss": _TLS_FILES | {"ssl_cert_reqs"},
    "redis+socket": frozenset(("virtual_host",)),
}
_PERCENT: Final = "characters such as / ? # @ % in a user or password are written as %2F %3F %23 %40 %25"


def check_redis_url(url: str) -> None:
    """Raise ValueError unless redis-py takes it. It names the parameter and the remedy, and nothing secret."""
    scheme = _scheme(url, ("redis", "rediss", "unix"))
    tls = _TLS_FILES | {"ssl_cert_reqs", "ssl_check_hostname"} if scheme == "rediss" else frozenset()
    query = _check(url, _OF_REDIS | tls)
    for name in _NUMBERS & query.keys():
        if not query[name].replace(".", "", 1).isdigit():
            raise ValueError(f"{name} in its query: must be a number")
    _check_certificates(query, ("none", "optional", "required"))


def check_broker_url(url: str) -> None:
    """As ``check_redis_url``, for what kombu takes."""
    scheme = _scheme(url, tuple(_OF_BROKER))
    query = _check(url, _OF_BROKER[scheme])
    database = query.get("virtual_host", "0") if scheme == "redis+socket" else urlsplit(url).path.strip("/") or "0"
    if scheme.startswith("redis") and not database.isdigit():
        raise ValueError("its database must be a number, as in redis://host:6379/1")
    _check_certificates(query, _CERTIFICATE_WANTED)


def _scheme(url: str, schemes: tuple[str, ...]) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in schemes:
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{each}://' for each in schemes)}")
    return scheme


def _check(url: str, allowed: frozenset[str]) -> dict[str, str]:
    """The query, once host, port and the names of the parameters have been looked at."""
    if url != url.strip():
        raise ValueError("has white space around it: leave that out")
    try:
        parts = urlsplit(url)
        valid = parts.port != 0
    except ValueError:
        valid = False
    if not valid or "#" in url or (parts.netloc and "@" not in parts.netloc and "@" in parts.path + parts.query):
        raise ValueError(
            f"its host and port cannot be read: a port is a number from 1 to 65535, brackets belong around an IPv6"
            f" address, and {_PERCENT}"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in query:
        if name not in allowed:
            shown = name if name.isidentifier() else "a parameter"
            known = f"take {', '.join(sorted(allowed))}, or leave it out" if allowed else "leave it out"
            raise ValueError(f"{shown} in its query: askmesh knows no such parameter; {known}")
    return query


def _check_certificates(query: Mapping[str, str], wanted: tuple[str, ...]) -> None:
    if query.get("ssl_cert_reqs", wanted[0]) not in wanted:
        raise ValueError(f"ssl_cert_reqs in its query: must be {' or '.join(wanted)}")
    for name in sorted(_TLS_FILES & query.keys()):
        if not Path(unquote(query[name])).is_file():
            raise ValueError(f"{name} in its query: there is no such file")
