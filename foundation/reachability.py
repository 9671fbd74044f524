"""Servers that come and go: one log line when one is gone, one when it is back, however many calls notice."""

import logging
import time
from collections.abc import Callable
from typing import Final, Self

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from foundation.postgresql import errors as database_errors

logger = logging.getLogger(__name__)

_REDIS_REASONS: Final = {
    ReadOnlyError: "it is a read-only replica",
    OutOfMemoryError: "its memory is full: see maxmemory",
    BusyLoadingError: "it is loading its data",
    MasterDownError: "it is a replica that has lost its primary",
    ClusterDownError: "its cluster is down",
    NoPermissionError: "the user in ASKMESH_REDIS_URL may not do this",
    AuthenticationError: "it refuses the user or password in ASKMESH_REDIS_URL",
}


def explain(error: BaseException) -> str:
    """Why a server does not do its work, in one line that quotes nothing: Redis or PostgreSQL."""
    name = type(error).__name__
    for kind, reason in _REDIS_REASONS.items():
        if isinstance(error, kind):
            return f"{name}: {reason}"
    if isinstance(error, ResponseError) and (code := str(error).partition(" ")[0]).isupper():
        return f"{name} {code[:20]}"
    return database_errors.explain(error)


class Reachability:
    """Whether a server serves, as those who call it have seen it last; the log has a line at each change.

    ``Reachability.of("Redis", "answers come from PostgreSQL")`` logs "Redis does not answer (ConnectionError): answers
    come from PostgreSQL", and "Redis answers again". No line holds an error's message, because PostgreSQL's can quote
    rows.
    """

    def __init__(
        self,
        lost: str,
        found: str,
        explain: Callable[[BaseException], str] = explain,
        *,
        settled_seconds: float = 0.0,
    ) -> None:
        """``lost``: the line for a server that is gone, with ``%s`` for the reason; ``found``: for one that is back.

        ``settled_seconds``: the server is back after so long without a failure. Where some calls fail and others do
        not, as on a server that only reads, the log so stays at one line.
        """
        self._lost = lost
        self._found = found
        self._explain = explain
        self._settled_seconds = settled_seconds
        self._failed_at = 0.0
        self.reachable = True
        """Whether the latest call succeeded."""
        self.logged_as_lost = False
        """Whether the log's latest line about the server says that it is gone."""

    @classmethod
    def of(
        cls,
        server: str,
        consequence: str,
        explain: Callable[[BaseException], str] = explain,
        *,
        settled_seconds: float = 0.0,
    ) -> Self:
        """The usual lines. ``consequence``: what the server's absence means."""
        lost, found = f"{server} does not answer (%s): {consequence}", f"{server} answers again"
        return cls(lost, found, explain, settled_seconds=settled_seconds)

    def failed(self, why: BaseException | str) -> None:
        """A call failed."""
        self.reachable = False
        self._failed_at = time.monotonic()
        if not self.logged_as_lost:
            self.logged_as_lost = True
            logger.warning(self._lost, why if isinstance(why, str) else self._explain(why))

    def succeeded(self) -> None:
        """A call succeeded."""
        if not self.logged_as_lost:
            return
        self.reachable = True
        if time.monotonic() - self._failed_at >= self._settled_seconds:
            self.logged_as_lost = False
            logger.warning(self._found)
