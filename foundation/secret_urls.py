"""Which passwords in the URLs of servers are none."""

from typing import Final
from urllib.parse import unquote, urlsplit

from foundation.loopback import is_loopback

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
    parts = urlsplit(url)
    if not parts.hostname or is_loopback(parts.hostname):
        return None
    password = unquote(parts.password or "")
    if not password:
        return (
            None if parts.scheme.startswith("postgresql") else "has no password, and its server takes everybody's word"
        )
    words = password.lower().strip("0123456789!_-. ")
    if words in _USUAL or password == unquote(parts.username or ""):
        return "has a password that is tried first by everybody"
    if len(password) < SHORTEST:
        return f"has a password of less than {SHORTEST} characters"
    return None
