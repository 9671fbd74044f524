"""Which caller an API key stands for, without a round trip a request."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api_service.core.database import unavailable
from api_service.core.principal import Principal
from foundation.postgresql.database import Database
from owners.api_keys import ValidKey, find, hash_of, is_well_formed

_VALID_SECONDS: Final = 4.0
"""For so long an answer of PostgreSQL is believed, from when it was asked: a revoked key is refused within 5 s."""
_REFRESH_SECONDS: Final = 2.0
"""An answer older than this is asked for again while it still serves, so that no request waits for it."""
_MOST_UNKNOWN: Final = 10_000
_MOST_WAITING: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    old_at: float
    until: float


class ApiKeys:
    """Looks keys up in PostgreSQL, all that are wanted at a moment in one statement, and one statement at a time.

    So whoever guesses keys takes one connection at most, and 10,000 hashes of memory. However many guess, a key that is
    known is looked up, and serves meanwhile. Nothing is believed for longer
    than 4 s, whether PostgreSQL answers or not: without it, a ProblemError that says so ends the request.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._wanted: dict[bytes, asyncio.Future[Principal | None]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def principal(self, key: str) -> Principal | None:
        """Who calls with this key; None if nobody has it. Raises ProblemError."""
        digest = hash_of(key)
        now = asyncio.get_running_loop().time()
        if (known := self._known.get(digest)) is not None and now < known.until:
            if now >= known.old_at:
                self._want(digest)
            return known.principal
        if now < self._unknown.get(digest, 0) or not is_well_formed(key):
            return None
        # Whoever leaves meanwhile does not keep the others from being told.
        return await asyncio.shield(self._want(digest))

    async def close(self) -> None:
        """Wait for the statement that is under way."""
        if self._looking is not None:
            await self._looking

    def _want(self, digest: bytes) -> asyncio.Future[Principal | None]:
        if (wanted := self._wanted.get(digest)) is not None:
            return wanted
        if len(self._wanted) >= _MOST_WAITING and digest not in self._known:
            raise unavailable()  # known keys are as few as those that were made
        wanted = self._wanted[digest] = asyncio.get_running_loop().create_future()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return wanted

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            began = loop.time()
            try:
                found = await self._database.read(find, self._database.autocommit, list(wanted))
            except Exception as error:  # noqa: BLE001 - it is raised where the key is waited for
                for future in wanted.values():
                    future.set_exception(error)
                    future.exception()  # nobody may wait any more
                continue
            self._remember(wanted, found, began)

    def _remember(
        self, wanted: Mapping[bytes, asyncio.Future[Principal | None]], found: Mapping[bytes, ValidKey], began: float
    ) -> None:
        for digest, future in wanted.items():
            principal = None
            if (key := found.get(digest)) is None:
                self._known.pop(digest, None)
                self._unknown[digest] = began + _VALID_SECONDS
                if len(self._unknown) > _MOST_UNKNOWN:
                    del self._unknown[next(iter(self._unknown))]
            else:
                principal = Principal(key.tenant, key.role, key.id, key.limits)
                seconds = _VALID_SECONDS if key.seconds_left is None else min(_VALID_SECONDS, key.seconds_left)
                self._known[digest] = _Known(principal, began + _REFRESH_SECONDS, began + seconds)
            future.set_result(principal)
