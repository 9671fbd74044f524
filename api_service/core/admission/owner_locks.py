"""One question of an owner at a time, where its answers are counted before another is made."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

_PATIENCE_SECONDS: Final = 10.0


class OwnerLocks:
    """Lines an owner's questions up in this process, before they take a connection to PostgreSQL.

    There they would wait for each other's lock: with as many as the pool has connections, nobody else would get one.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, owner: str) -> AsyncIterator[None]:
        """Count for this owner alone. Raises TimeoutError if those before take longer than 10 s."""
        if (lock := self._locks.get(owner)) is None:
            lock = self._locks[owner] = asyncio.Lock()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()
