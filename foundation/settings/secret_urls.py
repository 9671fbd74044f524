"""Which passwords in the URLs of servers are none."""

from typing import Final
from urllib.parse import unquote, urlsplit

from foundation.loopback import is_loopback
from foundation.postgresql.url import parse_postgresql_url

SHORTEST: Final = 12
"""Characters of the shortest password that is let through. 12 random letters and digits are 70 bits."""

_USUAL: Final = frozenset(
    ("admin", "askmesh", "changeme", "default", "guest", "letmein", "passw0rd", "password", "postgres", "rabbitmq")
) | {"redis", "root", "secret", "test"}


def weakness(url: str) -> str | None:
    """What is wrong with the password in a URL whose server other machines may reach; None where nothing is.

    A server on this machine's own address or on a Unix socket is development. A PostgreSQL URL without a password is
    let through: certificates and password files prove who connects as well.
    """
    if "://" not in url:
        return None
    if url.lower().startswith("postgres"):
        to = parse_postgresql_url(url)
        if all(host.startswith(("/", "@")) or is_loopback(host) for host, _ in to.hosts) or not to.password:
            return None
        user, password = to.user, to.password
    else:
        parts = urlsplit(url)
        if not parts.hostname or is_loopback(parts.hostname):
            return None
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if not password:
            return "has no password, and its server takes everybody's word"
    words = password.lower().strip("0123456789!_-. ")
    if words in _USUAL or password == user:
        return "has a password that is tried first by everybody"
    if len(password) < SHORTEST:
        return f"has a password of less than {SHORTEST} characters"
    return None
