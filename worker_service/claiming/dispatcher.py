"""Claiming due answers for this process's slots, under its lease."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import Final

from foundation.background import log_when_broken
from foundation.postgresql.database import Database
from foundation.postgresql.errors import DATABASE_ERRORS
from questions import claims, worker_leases
from questions.claims import Claim
from worker_service.claiming.engine_gate import EngineGate
from worker_service.claiming.fair_share import ClaimLimits, FairShare
from worker_service.claiming.leases import Lease

# Slots that have answered look for more together: with a statement for each, every other statement finds nothing.
_PATIENCE_SECONDS: Final = 0.1


class ClaimDispatcher:
    """Gives slots their claims. One statement claims for all slots that wait, however many those are."""

    def __init__(self, database: Database, lease: Lease, gate: EngineGate, fair_share: FairShare | None = None) -> None:
        """``fair_share``: how many of the slots an owner may have; None: all of them."""
        self._database = database
        self._engine = database.engine
        self._lease = lease
        self._gate = gate
        self._fair_share = fair_share or FairShare(0)
        self._waiting: list[asyncio.Future[Claim | None]] = []
        self._serving: asyncio.Task[None] | None = None
        # Claims are made one statement at a time, so that nobody hands back what is just being given to a slot.
        self._one_at_a_time = asyncio.Lock()
        self._held: set[int] = set()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._more_due = False
        self._hurry = asyncio.Event()

    @property
    def held(self) -> frozenset[int]:
        """Tokens of the claims that slots have and have not given back."""
        return frozenset(self._held)

    async def next(self, *, patiently: bool = False) -> Claim | None:
        """The next due answer; None if there is none, or none may be claimed now. ``give_back`` ends it.

        patiently: where no more is known to be due, wait a moment for others to claim with.
        """
        waiter: asyncio.Future[Claim | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if not patiently or self._more_due:
            self._hurry.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
            log_when_broken(self._serving, "claiming")
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (claim := waiter.result()):
                self.give_back(claim)
            raise

    def hurry(self) -> None:
        """Something is due: claim now for those who wait patiently."""
        if self._waiting:
            self._hurry.set()

    async def suspects(self, count: int) -> list[Claim]:
        """Up to ``count`` answers that may be what kills workers or engines. ``give_back`` ends each."""
        async with self._one_at_a_time:
            return await self._claim(count, suspects=True)

    @contextmanager
    def pausing(self) -> Iterator[Callable[[], None]]:
        """Give slots no claims meanwhile, but let them wait; what it gives ends that before."""
        self._unpaused.clear()
        try:
            yield self._unpaused.set
        finally:
            self._unpaused.set()

    @property
    def passes_over(self) -> bool:
        """Whether something may be due that was left because its owner had as many slots as it may."""
        return self._fair_share.somebody_is_passed_over

    def give_back(self, claim: Claim) -> None:
        """The slot has nothing more to do with this claim."""
        if claim.token in self._held:
            self._held.discard(claim.token)
            self._fair_share.released(claim.owner)

    async def hand_back_strays(self) -> None:
        """Hand back what PostgreSQL thinks is held here and is not.

        Such a stray comes from a claim whose commit succeeded and whose rows never arrived. Without this nobody
        would answer it while the lease lasts.
        """
        async with self._one_at_a_time:
            if (worker_id := self._lease.worker_id) is None:
                return
            with self._database.attempt():  # else the next heartbeat finds them again
                await worker_leases.hand_back_all_but(self._engine, worker_id, self._held)

    async def _serve(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._hurry.wait()
            await self._unpaused.wait()
            async with self._one_at_a_time:
                self._hurry.clear()
                waiting, self._waiting = self._waiting, []
                claimed: list[Claim] = []
                try:
                    claimed = await self._claim(len(waiting))
                finally:
                    self._distribute(waiting, claimed)

    async def _claim(self, wanted: int, *, suspects: bool = False) -> list[Claim]:
        worker_id = self._lease.worker_id
        permitted = self._gate.permits(wanted) if worker_id is not None else 0
        if worker_id is None or permitted == 0:
            return []
        claimed: list[Claim] = []
        try:
            await self._take(worker_id, permitted, claimed, suspects=suspects)
        except DATABASE_ERRORS as error:
            self._database.reachability.failed(error)
        except BaseException:
            for claim in claimed:
                self.give_back(claim)  # to no slot; the next heartbeat finds that they are nobody's
            raise
        else:
            self._database.reachability.succeeded()
        self._gate.claimed(len(claimed))
        if not suspects:
            self._more_due = len(claimed) == wanted
        if self._lease.worker_id != worker_id:
            for claim in claimed:  # claimed under a lease that is lost by now
                self.give_back(claim)
            return []
        return claimed

    async def _take(self, worker_id: int, permitted: int, claimed: list[Claim], *, suspects: bool) -> None:
        """Add to ``claimed``: in one statement where no owner has its share, else in a few."""
        to_all = False
        while (rest := permitted - len(claimed)) > 0:
            limits = ClaimLimits(rest) if suspects else self._fair_share.limits(rest, to_all=to_all)
            found = await claims.claim(
                self._engine, worker_id, limits.count, suspects=suspects, but_for=limits.excluded_owners
            )
            self._hold(found)
            claimed += found
            if len(found) < limits.count:
                if limits.is_last:
                    return
                to_all = True

    def _hold(self, claimed: Iterable[Claim]) -> None:
        for claim in claimed:
            self._held.add(claim.token)
            self._fair_share.acquired(claim.owner)

    def _distribute(self, waiting: Iterable[asyncio.Future[Claim | None]], claimed: Iterable[Claim]) -> None:
        for waiter, claim in zip_longest((w for w in waiting if not w.done()), claimed):
            if waiter is not None:
                waiter.set_result(claim)
            else:
                self.give_back(claim)
