"""Keeps questions moving that nobody was woken for. Every worker sweeps; two at once do no harm."""

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from foundation.postgresql.database import Database
from foundation.postgresql.errors import describe
from foundation.redis import MeshRedis
from foundation.settings import WorkerSettings
from live.signals import publish_ended
from owners.tenancy import has_several_owners
from questions.sweeping import Availability, sweep
from worker_service.claiming.fair_share import FairShare
from worker_service.claiming.slots import Slots

logger = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 2.0


class Sweeper:
    """Sweeps PostgreSQL, and lets free slots of this process look for what is due.

    It starts slots itself instead of sending hints, because it then needs no broker: with the broker down, blocked or
    slow, due questions are answered all the same, one round later.
    """

    def __init__(
        self,
        database: Database,
        redis: MeshRedis,
        slots: Slots,
        settings: WorkerSettings,
        *,
        fair_share: FairShare | None = None,
    ) -> None:
        """``fair_share`` learns from it whether there are several owners."""
        self._database = database
        self._engine = database.engine
        self._redis = redis
        self._slots = slots
        self._fair_share = fair_share
        self._availability = Availability(settings.lease_seconds, settings.heartbeat_seconds)
        self._failing: frozenset[str] = frozenset()
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Do not wait for the next round: questions can be claimed again."""
        self._hurry.set()

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            with self._database.attempt() as attempt:
                await self.sweep_once()
            if attempt.failed:
                self._availability.fails()
            # Jitter keeps the workers of a fleet from sweeping in step.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - no secret
                    await self._hurry.wait()
            self._hurry.clear()

    async def sweep_once(self) -> None:
        """One round. Raises one of DATABASE_ERRORS if PostgreSQL does not answer."""
        if self._fair_share is not None:
            self._fair_share.several_owners = await has_several_owners(self._engine)
        swept = await sweep(self._engine, max(self._slots.free, 1), self._availability)
        self._log_changes(swept.failures)
        if swept.due:
            self._slots.start(swept.due)
        if swept.suspects:
            self._slots.start_trials()
        if swept.ended_answers:
            for answer_id in swept.ended_answers:
                self._slots.stop_answer(answer_id)
            await publish_ended(self._redis, swept.ended_answers)

    def _log_changes(self, failures: Mapping[str, BaseException]) -> None:
        for name in failures.keys() - self._failing:
            logger.warning("sweeping: %s fails (%s), and is tried each round", name, describe(failures[name]))
        for name in self._failing - failures.keys():
            logger.warning("sweeping: %s succeeds again", name)
        self._failing = frozenset(failures)
