"""Servers that come and go: one log line when one is gone, one when it is back, however many calls notice."""

import logging
import time
from collections.abc import Callable
from typing import Final

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


class Outage:
    """Whether one server serves, as those who call it have seen it last.

    The log lines do not hold an error's message, because PostgreSQL's can quote rows.
    """

    def __init__(
        self,
        server: str,
        consequence: str,
        explain: Callable[[BaseException], str] = explain,
        *,
        settled_seconds: float = 0.0,
    ) -> None:
        """``settled_seconds``: without a failure for so long it is back.

        Where some calls fail while others do not, as on a server that only reads, the log stays at one line.
        """
        self._settled_seconds = settled_seconds
        self._server = server
        self._consequence = consequence
        self._explain = explain
        self._told = False
        self._failed_at = 0.0
        self.lasts = False
        """Whether the latest call failed."""

    def begins(self, error: BaseException) -> None:
        """A call failed."""
        self.lasts = True
        self._failed_at = time.monotonic()
        if not self._told:
            self._told = True
            logger.warning("%s does not answer (%s): %s", self._server, self._explain(error), self._consequence)

    def ends(self) -> None:
        """A call succeeded."""
        if not self._told:
            return
        self.lasts = False
        if time.monotonic() - self._failed_at >= self._settled_seconds:
            self._told = False
            logger.warning("%s answers again", self._server)
