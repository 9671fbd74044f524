"""TLS to Celery's broker, as the query of its URL says, with the names that redis-py reads in a ``rediss`` URL."""

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def split_tls(url: str) -> tuple[str, dict[str, Any] | None]:
    """The URL without ``ssl_ca_certs``, ``ssl_certfile`` and ``ssl_keyfile``, and Celery's ``broker_use_ssl``.

    With ``amqps`` and ``rediss`` the server's certificate must be signed by who stands in ``ssl_ca_certs``, or else by
    whom the system trusts, and bear the host's name. kombu alone asks no certificate of a ``rediss`` server at all, and
    no name of an ``amqps`` one.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("amqps", "rediss"):
        return url, None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.pop("ssl_cert_reqs", None)  # wanted in any case
    files: dict[str, Any] = {name: query.pop(name) for name in _FILES if name in query}
    rest = parts._replace(query=urlencode(query)).geturl()
    if parts.scheme == "rediss":
        return rest, {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **files}
    named = {name.removeprefix("ssl_"): file for name, file in files.items()}
    return rest, {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname, **named}
