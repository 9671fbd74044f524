"""This process's lease: one row in PostgreSQL that says that it is alive and owns what it has claimed."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from foundation.postgresql.database import Database
from foundation.settings import WorkerSettings
from questions import worker_leases

logger = logging.getLogger(__name__)

FENCE_SECONDS: Final = 3.0
"""A worker stops this long before others can take over, so that a slow event loop does not overlap with them."""

_RETRY_SECONDS: Final = 1.0


class Holder(Protocol):
    """Who works under the lease."""

    @property
    def held(self) -> frozenset[int]:
        """Tokens of what it has claimed and not finished."""

    def lease_renewed(self, asked: frozenset[int], owned: frozenset[int]) -> None:
        """The lease goes on. ``asked``: what was held when PostgreSQL was asked; ``owned``: what it says is held."""

    def lease_lost(self) -> None:
        """Stop at once all that was claimed: it may be somebody else's from now on."""


class Lease:
    """Registers, renews, and gives up the lease when it can no longer be sure of it.

    The lease lasts from the moment when a renewal was sent, on this process's monotonic clock, because PostgreSQL
    counted from a later moment. Wall clocks play no part.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        settings: WorkerSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._engine = database.engine
        self._name = name
        self._seconds = settings.lease_seconds
        self._heartbeat = settings.heartbeat_seconds
        self._clock = clock
        self._worker_id: int | None = None
        self._former_id: int | None = None
        self._fence_at = 0.0
        self._hurry = asyncio.Event()
        self.obtained = asyncio.Event()
        """Set once there has been a lease."""

    @property
    def worker_id(self) -> int | None:
        """The lease's worker id; None while there is no lease, or not enough left of it to work under."""
        return self._worker_id if self._clock() < self._fence_at else None

    async def keep(self, holder: Holder) -> None:
        """Hold a lease for ever: a lost one is followed by a new one as soon as PostgreSQL answers."""
        while True:
            await self._obtain()
            renewing = asyncio.create_task(self._renew(self._worker_id, holder))
            fence = asyncio.create_task(self._reach_fence())
            try:
                # Renewing ends when PostgreSQL says that the lease has run out. A renewal that hangs is not waited for.
                await asyncio.wait({renewing, fence}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                renewing.cancel()
                fence.cancel()
            self._lose(holder)
            if renewing.done() and not renewing.cancelled() and (defect := renewing.exception()):
                raise defect

    def renew_soon(self) -> None:
        """Do not wait for the next heartbeat: somebody has to know what PostgreSQL says is held."""
        self._hurry.set()

    async def retire(self) -> None:
        """End the lease and hand back at once all that is held under it; that counts as nothing against an answer."""
        self._former_id, self._worker_id = self._worker_id or self._former_id, None
        await self._end_former()

    async def _end_former(self) -> None:
        if self._former_id is not None:
            await worker_leases.hand_back_all_but(self._engine, self._former_id, ())
            await worker_leases.retire_worker(self._engine, self._former_id)
            self._former_id = None

    async def _obtain(self) -> None:
        while self.worker_id is None:
            with self._database.attempt() as attempt:
                # What was held is no loss: this process has stopped working on it, and is alive.
                await self._end_former()
                sent = self._clock()
                self._worker_id = await worker_leases.register_worker(self._engine, self._name, self._seconds)
                self._extend(sent)
            if attempt.failed:
                await asyncio.sleep(_RETRY_SECONDS)
        self.obtained.set()

    async def _renew(self, worker_id: int | None, holder: Holder) -> None:
        assert worker_id is not None
        pause = self._heartbeat
        while True:
            await self._pause(pause)
            asked, sent = holder.held, self._clock()
            owned = None
            with self._database.attempt() as attempt:
                owned = await worker_leases.renew_lease(self._engine, worker_id, self._seconds)
            if attempt.failed:
                pause = min(self._heartbeat, _RETRY_SECONDS)
                continue
            if owned is None or worker_id != self._worker_id:
                return
            pause = self._heartbeat
            self._extend(sent)
            holder.lease_renewed(asked, owned)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def _reach_fence(self) -> None:
        # What is awaited is a time, and renewals put it off.
        while (left := self._fence_at - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    def _extend(self, sent: float) -> None:
        self._fence_at = sent + self._seconds - FENCE_SECONDS

    def _lose(self, holder: Holder) -> None:
        held = len(holder.held)
        logger.warning("the lease is lost: %d answers are given up", held)
        self._former_id, self._worker_id = self._worker_id, None
        self._fence_at = 0.0
        holder.lease_lost()
